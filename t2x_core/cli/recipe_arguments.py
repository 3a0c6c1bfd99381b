"""The arguments of commands that take a recipe."""

from __future__ import annotations

import argparse


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Adds RECIPE and key=value overrides."""
    parser.add_argument("recipe", metavar="RECIPE", help="name of a recipe (see `t2x recipes`), or path of a YAML file")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings to change, such as trainer.max_steps=500"
    )


def check_early(arguments: argparse.Namespace) -> None:
    """Finds a mistake in what the core knows of a recipe before anything heavy is imported; UserError names it."""
    from t2x_core.recipe import check_core, compose

    check_core(compose(arguments.recipe, arguments.overrides))
