"""`t2x data check RECIPE [key=value …]`."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from t2x_core.cli.completion import completes
from t2x_core.cli.options import number, path, whole
from t2x_core.cli.recipe_arguments import add_recipe, check_early
from t2x_core.data_check.kinds import KINDS
from t2x_core.errors import UserError, did_you_mean
from t2x_core.plain_files import make_empty


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument(
        "--workers", type=whole(1, 1024), default=cores, help="processes that decode (default: a core each)"
    )
    parser.add_argument(
        "--out", type=path, metavar="FOLDER", help="new folder for the report (default: checks/RECIPE/date-time)"
    )
    parser.add_argument(
        "--fix", type=path, metavar="FILE", help="write a manifest (.jsonl) without the files that cannot be used"
    )
    ignore = parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="KIND",
        help=f"leave out findings of a kind: {', '.join(KINDS)}",
    )
    completes(ignore, lambda: KINDS)
    parser.add_argument(
        "--seconds",
        type=number(1, 86400),
        default=60.0,
        help="how long a decoder may give no sign of life before its file counts as damaged (default: 60)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    check_early(arguments)
    for kind in arguments.ignore:
        if kind not in KINDS:
            hint = did_you_mean(kind, KINDS) or f"there are: {', '.join(KINDS)}"
            raise UserError(f'--ignore: there is no finding of the kind "{kind}"', where="command line", hint=hint)
    if arguments.fix is not None:
        if arguments.fix.suffix.lower() != ".jsonl":
            raise UserError(f"--fix: {arguments.fix} must end in .jsonl", where="command line")
        if os.path.lexists(arguments.fix):
            raise UserError(f"{arguments.fix} is there already", where="command line", hint="choose another --fix")
    from t2x_core.assembly import load_assembly
    from t2x_core.data_check.check import Check
    from t2x_core.data_check.command import run_check
    from t2x_core.training.log import start_log

    console = start_log(None)
    assembly = load_assembly(arguments.recipe, arguments.overrides)
    check = Check(assembly, arguments.recipe, arguments.workers, arguments.seconds, arguments.ignore, console)
    out: Path = arguments.out or Path("checks", Path(arguments.recipe).stem, time.strftime("%Y-%m-%d_%H-%M-%S"))
    make_empty(out)
    return run_check(check, out, arguments.fix, [arguments.recipe, *arguments.overrides])
