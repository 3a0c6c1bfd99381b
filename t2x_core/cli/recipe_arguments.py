"""The arguments of commands that take a recipe."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from t2x_core.cli.completion import completes, recipe_names

if TYPE_CHECKING:
    from t2x_core.recipe import Recipe


def add_recipe(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """Adds RECIPE, which may be left out if it is `optional`, and key=value overrides."""
    recipe = parser.add_argument(
        "recipe",
        metavar="RECIPE",
        nargs="?" if optional else None,
        help="name of a recipe (see `t2x recipes`), or path of a YAML file",
    )
    completes(recipe, recipe_names)
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="settings to change, such as trainer.max_steps=500",
    )


def check_early(arguments: argparse.Namespace) -> Recipe | None:
    """Finds a mistake in a recipe before anything heavy is imported; UserError names it.

    Returns the recipe, or None if it names a plugin that does not list its settings: then it is to be checked again.
    """
    from t2x_core.entry_points import settings
    from t2x_core.recipe import check_recipe, compose

    return check_recipe(compose(arguments.recipe, arguments.overrides), settings)
