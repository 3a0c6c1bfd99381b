"""Cost against the number of tokens, both axes logarithmic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from t2x_core.bench.backbone.options import PASSES, VARIANTS
from t2x_core.bench.backbone.results import Results
from t2x_core.errors import UserError
from t2x_core.plain_files import written_whole

COLOURS = dict(zip(VARIANTS, ("#0072b2", "#d55e00", "#000000", "#56b4e9", "#009e73", "#cc79a7"), strict=True))
"""Of the variants: distinct to the colour-blind (Okabe and Ito)."""


def plot(results: Results, file: Path) -> None:
    """Writes an image: time of a call for each pass, and the attention's own operations beside the paper's.

    Images are joined by lines (compiled: dashed), clips are triangles.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    passes = [pass_ for pass_ in PASSES if any(cell.pass_ == pass_ for cell in results.cells)]
    figure, axes = pyplot.subplots(1, len(passes) + 1, figsize=(5 * len(passes) + 5, 4.5), squeeze=False)
    for pass_, axis in zip(passes, axes[0], strict=False):
        _times(results, pass_, axis)
        axis.set_title(PASSES[pass_])
        axis.set_ylabel("seconds a call")
    _attention(results, axes[0][-1])
    timed, counted = ({one.tokens for one in ones} for ones in (results.cells, results.attention))
    for axis, tokens in zip(axes[0], [*map(sorted, [timed] * len(passes)), sorted(counted)], strict=True):
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(tokens, [str(n) for n in tokens])
        axis.set_xlabel("tokens N")
        axis.minorticks_off()
        axis.grid(True, which="major", alpha=0.3)
        axis.legend(fontsize="small")
    asked, here = results.settings, results.machine
    device = here["gpu"] if asked["device"] == "cuda" else f"{here['cpu']}, {here['threads']} threads"
    size = f"width {asked['width']}, {asked['depth']} blocks, batch {asked['batch']}, {asked['precision']}"
    clips = "; triangles: clips" if any(cell.grid[0] > 1 for cell in results.cells) else ""
    figure.suptitle(f"{size}; {device}{clips}", fontsize="medium")
    figure.tight_layout()
    try:
        with written_whole(file) as beside:
            figure.savefig(beside, dpi=120)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from error
    finally:
        pyplot.close(figure)


def _times(results: Results, pass_: str, axis: Any) -> None:
    cells = [cell for cell in results.cells if cell.pass_ == pass_]
    for name in dict.fromkeys(entry.name for cell in cells for entry in cell.entries):
        for clips in (False, True):
            found = [(cell.tokens, cell.entry(name)) for cell in cells if (cell.grid[0] > 1) == clips]
            points = sorted(((n, entry) for n, entry in found if entry), key=lambda point: point[0])
            if not points:
                continue
            x, times = [n for n, _ in points], [entry.time for _, entry in points]
            entry = points[0][1]
            style = "--" if entry.compiled else "-"
            axis.errorbar(
                x,
                [time.median for time in times],
                [[time.median - time.low for time in times], [time.high - time.median for time in times]],
                color=COLOURS[entry.variant],
                label=None if clips else name,
                fmt="^" if clips else f"o{style}",
                fillstyle="none" if clips or entry.compiled else "full",
                markersize=4,
                linewidth=1.2,
                capsize=2,
            )


def _attention(results: Results, axis: Any) -> None:
    tokens = [cost.tokens for cost in results.attention]
    for label, variant, style, values in (
        ("proxy, paper", "proxy", "x", [cost.paper for cost in results.attention]),
        ("proxy, formula", "proxy", "-", [cost.proxy for cost in results.attention]),
        ("proxy, counted", "proxy", "o", [cost.proxy_counted for cost in results.attention]),
        ("fused, formula", "fused", "-", [cost.fused for cost in results.attention]),
        ("fused, counted", "fused", "o", [cost.fused_counted for cost in results.attention]),
    ):
        axis.plot(tokens, values, style, color=COLOURS[variant], label=label, fillstyle="none", linewidth=1.2)
    axis.axhline(1, color=COLOURS["dense"], linewidth=1.2, label="dense")
    axis.set_title("attention without projections")
    axis.set_ylabel("operations over full self-attention")
