"""Values of a recipe that know where they were written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from t2x_core.errors import UserError
from t2x_core.terminal import printable


class Origin(NamedTuple):
    """The place of a value: a line of a file, or the command line (`file` is None). Line 0 is the file as a whole."""

    file: Path | None = None
    line: int = 0

    def __str__(self) -> str:
        if self.file is None:
            return "command line"
        inside = os.path.relpath(self.file)
        shown = str(self.file) if inside.startswith("..") else inside
        return f"{shown}:{self.line}" if self.line else shown

    @property
    def folder(self) -> Path:
        """What a relative path that is written here is relative to."""
        return self.file.parent if self.file else Path.cwd()


COMMAND_LINE = Origin()


@dataclass(frozen=True)
class Node:
    """A value of a recipe: text, number, bool or None, a dict of nodes, or a list of nodes."""

    value: Any
    origin: Origin
    text: str | None = None
    """Of an override: what a setting that is text makes of it (see `overrides.parse_override`)."""
    problem: str | None = None
    """Of an override: why what is written is no YAML; it may still be text."""

    def plain(self) -> Any:
        """The same without origins: plain dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def find(self, path: str) -> Node | None:
        """The node at "a.b.c" ("" is this one), or None."""
        node: Node | None = self
        for key in path.split(".") if path else ():
            node = node.value.get(key) if node is not None and isinstance(node.value, dict) else None
        return node

    def where(self, path: str) -> Origin:
        """Where the value at "a.b.c" was written. A default has the place of the mapping that it could stand in."""
        while (node := self.find(path)) is None:
            path = path.rpartition(".")[0]
        return node.origin

    def walk(self, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Node]]:
        """(path, node) of each node below, parents first."""
        children: Any = ()
        if isinstance(self.value, dict):
            children = self.value.items()
        elif isinstance(self.value, list):
            children = enumerate(self.value)
        for key, child in children:
            yield (*path, key), child
            yield from child.walk((*path, key))


def located(error: ValueError, block: Node, path: str) -> UserError:
    """The mistake as one of the block at `path`: it names the setting, and the place where that was written."""
    if not isinstance(error, UserError):
        error = UserError(str(error))
    if error.where is not None:
        return error
    full = ".".join(filter(None, (path, error.key)))
    message = f"{full}: {error.message}" if full else error.message
    return UserError(message, where=str(block.where(error.key or "")), hint=error.hint)


def show(node: Node) -> str:
    """The value as it would be written, for a message: `"proxy"`, `0.5`, `true`, `null`, `[1, 2]`, `a mapping`."""
    value = node.value
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        text = "[" + ", ".join(show(child) for child in value[:60]) + "]"
        return text if len(text) <= 60 else f"a list of {len(value)}"
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 60 else value[:57] + "…", ensure_ascii=False)
    return printable(json.dumps(value), 60)
