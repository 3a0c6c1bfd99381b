"""The command `t2x`. Nothing heavy is imported before it is known what is wanted."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from t2x_core.errors import UserError

COMMANDS = {
    "fit": "train a recipe",
    "sample": "make samples with a trained run",
    "bench": "measure t2x against a baseline on this machine",
    "show": "print what a recipe resolves to",
    "recipes": "list the recipes that ship with t2x",
    "plugins": "list the plugins that are installed",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 done, 2 the user's mistake, 3 training failed, 130/143 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser("t2x", description="Any-task visual generation on one PT-DiT backbone.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if arguments[:1] == [name]:  # only this command's module is imported
            importlib.import_module(f"t2x_core.cli.{name}").configure(sub)
    chosen = parser.parse_args(arguments)
    try:
        return int(chosen.run(chosen))
    except UserError as error:
        if os.environ.get("T2X_DEBUG") == "1":
            raise
        print(f"t2x: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
