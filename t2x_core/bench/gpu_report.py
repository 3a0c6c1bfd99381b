"""What came of `t2x bench gpu`: figures of its parts, a table and a plot."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any


def read_figures(file: Path | None, run: Path | None) -> dict[str, Any]:
    """The JSON that a part wrote, or the last value of everything that its run wrote to TensorBoard."""
    if file is not None:
        return dict(json.loads(file.read_text())) if file.exists() else {}
    if run is None or not (run / "tensorboard").is_dir():
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    found: dict[str, Any] = {}
    for tag in events.Tags()["scalars"]:
        last = events.Scalars(tag)[-1]
        found[tag] = last.value
        found["steps"] = max(found.get("steps", 0), last.step)
    return found


def markdown(report: Mapping[str, Any]) -> str:
    """Everything that was measured, as tables."""
    lines = [f"{key}: {value}  " for key, value in report.items() if key != "parts"]
    lines += ["", "| part | state | seconds |", "|---|---|---|"]
    for name, part in report["parts"].items():
        lines.append(f"| {name} | {part['state']} | {part.get('seconds', 0):.0f} |")
    for name, part in report["parts"].items():
        figures = part.get("figures") or {}
        if "cells" in figures:
            lines += ["", "| tokens | pass | network | ms a call | of peak |", "|---|---|---|---|---|"]
            lines += [
                f"| {tokens} | {pass_} | {network} | {1000 * seconds:.2f} | {peak:.2f} |"
                for tokens, pass_, network, seconds, peak in _rows(figures)
            ]
        elif "ratio" in figures:
            fit, bare = (1000 * statistics.median(figures[key]) for key in ("fit", "bare"))
            lines += ["", f"{name}: {fit:.1f} ms a step, bare loop {bare:.1f} ms, ratio {figures['ratio']:.3f}"]
        elif figures:
            lines += ["", f"| {name} | last value |", "|---|---|"]
            lines += [f"| {tag} | {value:.4g} |" for tag, value in figures.items() if _told(tag)]
    return "\n".join(lines) + "\n"


def plot(report: Mapping[str, Any], file: Path) -> None:
    """Time of a call of the backbone against the number of tokens; nothing if it was not measured."""
    rows = list(_rows((report["parts"].get("backbone") or {}).get("figures") or {}))
    if not rows:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    passes = sorted({row[1] for row in rows}, reverse=True)
    figure, axes = pyplot.subplots(1, len(passes), figsize=(6 * len(passes), 4.5), squeeze=False)
    for pass_, axis in zip(passes, axes[0], strict=True):
        for network in dict.fromkeys(row[2] for row in rows):
            points = sorted((row[0], row[3]) for row in rows if row[1] == pass_ and row[2] == network)
            axis.plot(*zip(*points, strict=True), "o-", label=network) if points else None
        axis.set(xscale="log", yscale="log", xlabel="tokens", ylabel="seconds a call", title=pass_)
        axis.legend()
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)


def _told(tag: str) -> bool:
    return tag == "steps" or tag.startswith(("loss/total", "val/", "score", "speed/"))


def _rows(figures: Mapping[str, Any]) -> list[tuple[int, str, str, float, float]]:
    """(tokens, pass, network, seconds, share of the peak) of what `t2x bench backbone --json` wrote."""
    return [
        (
            prod(cell["grid"]),
            "forward + backward" if cell["pass_"] == "backward" else "forward",
            entry["variant"] + (", compiled" if entry["compiled"] else ""),
            entry["time"]["median"],
            entry["of_peak"]["median"],
        )
        for cell in figures.get("cells", ())
        for entry in cell["entries"]
        if "time" in entry
    ]
