"""Where recipes are: files of the user's own, and those that ship with t2x."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from t2x_core.errors import UserError, did_you_mean
from t2x_core.paths import user_path


def shipped_folder() -> Path:
    """The folder of the recipes in the installed package."""
    import importlib.resources  # costs 30 ms

    return Path(str(importlib.resources.files("recipes")))


def shipped_recipe(name: str) -> Path | None:
    """The file of a shipped recipe or piece (`quickstart`, `_base_/cpu`), with or without its `.yaml`."""
    file = shipped_folder() / f"{name.removesuffix('.yaml')}.yaml"
    return file if ".." not in file.parts and os.path.isfile(file) else None


def shipped_names() -> list[str]:
    """Names of the shipped recipes, sorted, those in folders last; folders that start with "_" hold pieces."""
    root = shipped_folder()
    paths = (file.relative_to(root) for file in root.rglob("*.yaml"))
    names = (path.with_suffix("").as_posix() for path in paths if not path.as_posix().startswith("_"))
    return sorted(names, key=lambda name: ("/" in name, name))


def list_recipes() -> list[tuple[str, str]]:
    """(name, description) of each shipped recipe; the description is its first comment line, "" if it has none."""
    found = []
    for name in shipped_names():
        lines = (shipped_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        found.append((name, next((line.lstrip("# ") for line in lines if line.startswith("#")), "")))
    return found


def find_recipe(name_or_path: str | Path) -> Path:
    """The file of a recipe: a path if there is such a file, else the name of a shipped one. Raises UserError."""
    try:
        path = user_path(name_or_path)
    except UserError as error:
        raise UserError(error.message, where="command line", hint=error.hint) from error
    if os.path.isfile(path):
        return path
    shipped = None if path.is_absolute() else shipped_recipe(str(name_or_path))
    if shipped is not None:
        return shipped
    if os.path.isdir(path):
        recipes = sorted(islice(path.glob("*.y*ml"), 1000))
        hint = f"write {recipes[0]}" if len(recipes) == 1 else None
        raise UserError(f'"{name_or_path}" is a folder, not a recipe', where="command line", hint=hint)
    if os.path.exists(path):
        raise UserError(f'"{name_or_path}" is not a recipe: it is no file', where="command line")
    there = islice(path.parent.glob("*.y*ml"), 1000) if path.suffix else ()
    neighbours = [str(path.with_name(file.name)) for file in there]
    hint = did_you_mean(str(name_or_path), [*shipped_names(), *neighbours])
    raise UserError(
        f'no recipe "{name_or_path}": there is no such file, and none of that name ships with t2x',
        where="command line",
        hint=hint or "`t2x recipes` lists those that ship",
    )
