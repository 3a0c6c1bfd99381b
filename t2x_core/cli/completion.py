"""What a shell is told when somebody presses Tab, by argcomplete. Nothing of it is imported otherwise."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable

ASKED = "_ARGCOMPLETE"
"""The shell sets this variable when it asks."""


def completes(action: argparse.Action, choices: Callable[[], Iterable[str]]) -> None:
    """Says what an argument may be; files are offered besides."""
    setattr(action, "completer", lambda **_: choices())  # noqa: B010 (argparse does not know it)


def answer(parser_of: Callable[[list[str]], argparse.ArgumentParser]) -> None:
    """Answers the shell, and ends the process."""
    try:
        import argcomplete
    except ImportError:
        os._exit(1)
    words = os.environ.get("COMP_LINE", "").split()
    argcomplete.autocomplete(parser_of(words[1:2]))


def recipe_names() -> list[str]:
    """Names of the recipes that come with t2x."""
    from t2x_core.recipe.catalog import shipped_names

    return list(shipped_names())


def plugin_names() -> list[str]:
    """Names of the installed plugins."""
    from t2x_core.entry_points import installed

    return [plugin.name for plugin in installed()]
