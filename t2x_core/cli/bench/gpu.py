"""`t2x bench gpu`."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2x_core.cli.bench.output import write_json
from t2x_core.cli.options import path
from t2x_core.plain_files import make_empty


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=25, help="for all parts together (default 25)")
    parser.add_argument("--out", type=path, default=Path("bench_gpu"), help="folder (default bench_gpu)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu goes with --smoke")
    parser.add_argument("--smoke", action="store_true", help="tiny, to see that all parts work; measures nothing")
    parser.add_argument("--only", metavar="PART,…", help="some of the parts: tests,backbone,fit,stalls,shapes,joint")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from t2x_core.errors import UserError

    if not 1 <= arguments.minutes < float("inf"):
        raise UserError(f"--minutes must be at least 1, not {arguments.minutes}", where="command line")
    if (arguments.device == "cpu") != arguments.smoke:
        raise UserError("--device cpu and --smoke go together", where="command line")

    from t2x_core.bench.gpu import parts, run_parts

    out: Path = arguments.out.absolute()
    todo = parts(out, arguments.smoke)
    if arguments.only is not None:
        wanted = arguments.only.split(",")
        unknown = set(wanted) - {part.name for part in todo}
        if unknown:
            raise UserError(f"--only: there is no part {min(unknown)!r}", where="command line")
        todo = [part for part in todo if part.name in wanted]

    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch sees no GPU; --device cpu --smoke tries the script without one", where="command line")
    make_empty(out)

    from t2x_core.bench.gpu_report import markdown, plot
    from t2x_core.bench.machine import machine

    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "smoke": arguments.smoke,
        "driver": _driver(),
        **machine(),
        "parts": {},
    }

    def done(name: str, result: Mapping[str, Any]) -> None:
        report["parts"][name] = dict(result)
        print(f"{name:<10} {result['state']}  ({result.get('seconds', 0):.0f} s)", flush=True)
        write_json(out / "gpu.json", report)
        try:
            (out / "gpu.md").write_text(markdown(report))
            plot(report, out / "gpu.png")
        except Exception as error:  # the figures are kept; a drawing must not end the measurement
            print(f"{name:<10} no table or plot: {type(error).__name__}: {error}")

    run_parts(todo, arguments.minutes, out, done)
    print(f"written    {out / 'gpu.json'}, gpu.md, gpu.png")
    return int(any(part["state"].startswith("failed") for part in report["parts"].values()))


def _driver() -> str:
    import subprocess

    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, timeout=20).stdout.strip() or "unknown"
    except (OSError, subprocess.TimeoutExpired):
        return "none"
