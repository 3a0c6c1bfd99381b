"""`t2x show RECIPE [key=value …]`."""

from __future__ import annotations

import argparse

from t2x_core.cli.recipe_arguments import add_recipe, check_early


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from t2x_core.recipe import dump_yaml, to_plain

    recipe = check_early(arguments)
    if recipe is None:
        from t2x_core.assembly import load_assembly

        recipe = load_assembly(arguments.recipe, arguments.overrides).recipe
    print(dump_yaml(to_plain(recipe)), end="")
    return 0
