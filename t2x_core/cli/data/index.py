"""`t2x data index RECIPE [key=value …]`."""

from __future__ import annotations

import argparse
import time

from t2x_core.cli.recipe_arguments import add_recipe, check_early
from t2x_core.quarantine import FILE_NAME


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    check_early(arguments)
    from t2x_core.assembly import build_data, build_module, load_assembly
    from t2x_core.training.log import start_log

    start_log(None)
    assembly = load_assembly(arguments.recipe, arguments.overrides)
    data = build_data(assembly, build_module(assembly))
    began = time.monotonic()
    data.check()
    for line in data.describe():
        print(line.replace(f" (all in {FILE_NAME})", ""))
    for task in data.modules:
        for name, reason in data.quarantine.named(task).items():
            print(f"left out   {name} {reason}")
    print(f"indexed    in {time.monotonic() - began:.1f} s; a run on the same files starts with what is remembered")
    return 0
