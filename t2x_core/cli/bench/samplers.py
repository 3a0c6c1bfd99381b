"""`t2x bench samplers RUN`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from t2x_core.cli.bench.output import check_writable, write_json
from t2x_core.cli.open_model import open_model
from t2x_core.cli.options import path, whole
from t2x_core.cli.sample_arguments import check_which, find_model, mistake
from t2x_core.terminal import printable

if TYPE_CHECKING:
    from t2x_core.bench.samplers import Variant

ALL = {"name": ["euler", "heun", "dpmpp-2m", "unipc"], "evaluations": ["12", "25"]}
"""What is tried if nothing else is asked for."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="a run, or the name of a recipe: its newest run")
    parser.add_argument(
        "--try",
        dest="tries",
        metavar=("KEY", "VALUE"),
        nargs="+",
        action="append",
        default=[],
        help="values for a key of diffusion.sampler, or for `evaluations` (of the network, for a sample) in place of "
        "steps; all combinations are tried (default: --try name euler heun dpmpp-2m unipc --try evaluations 12 25)",
    )
    parser.add_argument("--task", help="of a model that was trained on several")
    parser.add_argument("--samples", type=whole(1, 100_000), default=64, help="scored for each seed (default 64)")
    parser.add_argument("--seeds", type=whole(1, 100), default=3, help="how often, with other noise (default 3)")
    parser.add_argument("--checkpoint", default="last", help="last, best, or the number of a step (default last)")
    parser.add_argument("--device", help="cpu, cuda … (default: a GPU if there is one)")
    parser.add_argument("--threads", type=whole(1, 1024), help="CPU threads (default: the recipe's trainer.threads)")
    parser.add_argument("--json", type=path, metavar="FILE", help="also write all scores to FILE")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    check_which(arguments.checkpoint)
    axes: dict[str, list[str]] = {}
    for key, *values in arguments.tries or [[key, *values] for key, values in ALL.items()]:
        if not values:
            raise mistake(f"--try {printable(key, 60)} names no value", f"write --try {printable(key, 60)} 1 2, say")
        axes[key] = values
    if "steps" in axes and "evaluations" in axes:
        raise mistake("--try takes steps or evaluations, not both")
    if arguments.json:
        check_writable(arguments.json)
    model = find_model(arguments.run_folder)

    from t2x_core.bench.machine import in_words, machine
    from t2x_core.bench.samplers import bench_samplers

    pipeline = open_model(model, arguments.checkpoint, arguments.device, arguments.threads)
    here = machine()
    print(f"machine    {in_words(here)}")
    print(
        f"measured   {arguments.samples} held-out samples, {arguments.seeds} seeds: mean, and range over the seeds",
        flush=True,
    )
    header: list[str] = []

    def show(variant: Variant) -> None:
        if not header:
            header.extend(variant.scores)
            print(_row([*axes, "passes", "seconds", *header]))
        print(_row(_cells(variant, header)), flush=True)

    found = bench_samplers(pipeline, arguments.task, axes, arguments.seeds, arguments.samples, show)
    if arguments.json:
        write_json(arguments.json, {"machine": here, "variants": [variant.plain() for variant in found]})
    return 0


def _cells(variant: Variant, figures: Sequence[str]) -> list[str]:
    cells = [*variant.changed.values(), str(variant.evaluations), f"{variant.seconds:.1f}"]
    for figure in figures:
        values = variant.scores[figure]
        cells.append(f"{variant.mean(figure):.3f} ({min(values):.2f} … {max(values):.2f})")
    return cells


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
