"""`t2x new images|videos|objects FOLDER`."""

from __future__ import annotations

import argparse
import os
import re
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from t2x_core.cli.completion import completes
from t2x_core.cli.options import path
from t2x_core.errors import UserError, did_you_mean
from t2x_core.output import lasting_output

GROUP = "t2x.new"
"""Entry points: kind of data → function that looks at a folder of it (`t2x_core.starting.summary.Look`)."""


def configure(parser: argparse.ArgumentParser) -> None:
    kind = parser.add_argument("kind", metavar="KIND", help=f"what is in the folder: {', '.join(sorted(_kinds()))}")
    completes(kind, lambda: sorted(_kinds()))
    parser.add_argument("folder", metavar="FOLDER", type=path, help="folder of your data")
    parser.add_argument("--out", type=path, metavar="FILE", help="the recipe's file (default: FOLDER.yaml, here)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    kinds = _kinds()
    if arguments.kind not in kinds:
        hint = did_you_mean(arguments.kind, kinds) or f"there are: {', '.join(sorted(kinds))}"
        raise UserError(f'there is no kind of data "{arguments.kind}"', where="command line", hint=hint)
    folder: Path = arguments.folder
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise UserError(f"{folder} {what}; name a folder of {arguments.kind}", where="command line")
    file = arguments.out or Path(_name(folder) + ".yaml")
    if file.suffix not in (".yaml", ".yml"):
        raise UserError(f"{file} must end in .yaml", where="command line")
    with lasting_output():
        from t2x_core.starting.command import write_recipe
        from t2x_core.training.log import start_log

        start_log(None)
        print("\n".join(write_recipe(kinds[arguments.kind].load(), folder, file)))
    return 0


def _kinds() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _name(folder: Path) -> str:
    """A recipe's name from that of its folder: letters, digits, dashes and underscores."""
    return re.sub(r"[^\w-]+", "_", Path(os.path.abspath(folder)).name).strip("_") or "mine"
