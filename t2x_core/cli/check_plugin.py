"""`t2x check-plugin NAME [key=value …]`."""

from __future__ import annotations

import argparse
import logging
import warnings

from t2x_core.cli.completion import completes, plugin_names
from t2x_core.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    about = "of a task, a data source, a codec or a text encoder that is installed"
    completes(parser.add_argument("name", metavar="NAME", help=about), plugin_names)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of its block of a recipe")
    parser.add_argument(
        "--untrained", action="store_true", help="do not judge what a codec makes of images: its weights are random"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    for text in arguments.overrides:
        if not all(text.partition("=")):
            raise UserError(f'a setting is key=value, not "{text}"', where="command line")
    from t2x_core.entry_points import installed

    installed()
    from t2x_core.testing.codecs import CodecTests
    from t2x_core.testing.run import check, checks_of

    tests = checks_of(arguments.name, arguments.overrides)
    if arguments.untrained and isinstance(tests, CodecTests):
        type(tests).round_trip = None
    logging.getLogger("t2x").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    print(f"{tests.kind.replace('_', ' ')} {arguments.name}, of {tests.rig.plugin.package}", flush=True)
    bad = 0
    for result in check(tests):
        bad += bool(result.problem)
        if not result.problem:
            print(f"ok      {result.what}", flush=True)
        elif result.again:
            print(f"FAILED  {result.what}: for the same reason", flush=True)
        else:
            print(f"FAILED  {result.what}: {result.problem}", flush=True)
    print(f"{bad} of the checks failed" if bad else "all checks passed")
    return 2 if bad else 0
