"""`t2x cache RECIPE [key=value …]`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from t2x_core.cli.recipe_arguments import add_recipe, check_early
from t2x_core.errors import UserError
from t2x_core.output import lasting_output
from t2x_core.precompute.part import parse_part


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="say how much there is to do, and how long it will take")
    what.add_argument("--verify", action="store_true", help="read all entries, encode a few again, remove damaged ones")
    what.add_argument("--prune", action="store_true", help="remove what this recipe does not use")
    parser.add_argument("--part", metavar="I/N", help="do the I-th of N equal shares, such as 2/8")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    with lasting_output():
        recipe = check_early(arguments)
        if recipe is not None:
            _check(arguments, recipe.cache)
        if arguments.part:
            parse_part(arguments.part)
        from t2x_core.precompute.command import run_cache
        from t2x_core.training.failure import explain
        from t2x_core.training.log import start_log

        start_log(None)
        try:
            return run_cache(arguments, _check)
        except UserError:
            raise
        except Exception as error:
            if os.environ.get("T2X_DEBUG") == "1":
                raise
            print(f"t2x: encoding failed: {explain(error, None)}; what was written is kept", file=sys.stderr)
            return 3


def _check(arguments: argparse.Namespace, config: Any) -> None:
    """UserError if the recipe keeps nothing."""
    if config.folder is None:
        raise UserError(
            f"{arguments.recipe} keeps nothing: there is no cache.folder", hint="add cache.folder=cache, say"
        )
