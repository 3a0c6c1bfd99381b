"""`t2x plugins [NAME]`."""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from t2x_core.cli.completion import completes, plugin_names
from t2x_core.errors import UserError

if TYPE_CHECKING:
    from t2x_core.entry_points import Plugin

PLACES = {
    "task": "tasks:\n  {name}:",
    "source": "tasks:\n  a-task:\n    data:\n      {name}:",
    "codec": "codec:",
    "text_encoder": "text_encoders:\n  {name}:",
}
"""Where the block of each kind stands in a recipe."""


def configure(parser: argparse.ArgumentParser) -> None:
    about = "show the settings of this task, data source, codec or text encoder"
    completes(parser.add_argument("name", nargs="?", metavar="NAME", help=about), plugin_names)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from t2x_core.entry_points import installed, named

    print(_table(installed()) if arguments.name is None else _settings(named(arguments.name)))
    return 0


def _table(plugins: Sequence[Plugin]) -> str:
    """A line each: name, kind, package, file; or what is wrong with it."""
    names = [plugin.name for plugin in plugins]
    rows = [("name", "kind", "package", "file")]
    for plugin in plugins:
        try:
            kind = (plugin.kind() or "?").replace("_", " ")
            place = _shown(plugin.file)
            if names.count(plugin.name) > 1:
                place = "! another package brings this name, too; uninstall one"
        except UserError as error:
            kind, place = "?", f"! {str(error).split(f'of {plugin.package}: ', 1)[-1]}"
        rows.append((plugin.name, kind, plugin.package, place))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join([*map(str.ljust, row, widths), row[-1]]) for row in rows)


def _settings(plugin: Plugin) -> str:
    """The block of a recipe with all the settings of the plugin."""
    from t2x_core.recipe import commented

    name, schema, kind = plugin.name, plugin.settings(), plugin.kind()
    if schema is None or kind is None:
        raise plugin.refuse("does not list its settings", "its package needs an entry point of the group t2x.settings")
    header = f"# {kind.replace('_', ' ')} {name}, of {plugin.package} ({_shown(plugin.file)})"
    above = PLACES[kind].format(name=name).splitlines()
    known = {"name": name} if kind in ("codec", "text_encoder") else {}
    return "\n".join([header, *above, textwrap.indent(commented(schema, known), "  " * len(above))])


def _shown(file: Path | None) -> str:
    if file is None:
        return "! there is no such module"
    short = os.path.relpath(file)
    return str(file) if short.startswith("..") else short
