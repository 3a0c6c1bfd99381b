"""`t2x show RECIPE [key=value …]`."""

from __future__ import annotations

import argparse

from t2x_core.cli.recipe_arguments import add_recipe, check_early
from t2x_core.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser, optional=True)
    help_ = "print the JSON schema of recipe files, with the plugins that are installed, for an editor"
    parser.add_argument("--schema", action="store_true", help=help_)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from t2x_core.recipe import dump_yaml, to_plain

    if arguments.schema:
        return _schema()
    if arguments.recipe is None:
        raise UserError("which recipe?", where="command line", hint="`t2x recipes` lists those that ship")
    recipe = check_early(arguments)
    if recipe is None:
        from t2x_core.assembly import load_assembly

        recipe = load_assembly(arguments.recipe, arguments.overrides).recipe
    print(dump_yaml(to_plain(recipe)), end="")
    return 0


def _schema() -> int:
    """Prints the schema. A plugin that is broken is left out: an editor is no place to hear of it."""
    import json

    from t2x_core.entry_points import installed
    from t2x_core.recipe import BLOCKS, Kind
    from t2x_core.recipe.json_schema import json_schema

    settings: dict[Kind, dict[str, type | None]] = {kind: {} for kind in BLOCKS}
    for plugin in installed():
        try:
            schema, kind = plugin.settings(), plugin.kind()
        except UserError:
            continue
        for where in (kind,) if kind else BLOCKS:  # a plugin that does not list its settings may be of any kind
            settings[where][plugin.name] = schema
    print(json.dumps(json_schema(settings), indent=1))
    return 0
