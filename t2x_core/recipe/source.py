"""YAML text → a tree of values that know where they were written.

The YAML is that of version 1.2 where 1.1 surprises: `1e-4` is a number; `yes`, `on`, `1:30` and `2024-01-01` are text.
Keys are text and occur once in a mapping; anchors, aliases and `<<` work; tags do not.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from t2x_core.errors import UserError


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


def read_yaml(file: Path) -> Node:
    """The recipe file as a tree. Raises UserError with file and line for whatever is not a mapping in YAML."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(Origin(file))) from error
    except UnicodeDecodeError as error:
        raise UserError("is not a text file in UTF-8", where=str(Origin(file))) from error
    tree = _parse(text, file)
    if tree is None or tree.value is None:
        raise UserError("is empty; a recipe is a mapping of keys to values", where=str(Origin(file)))
    if not isinstance(tree.value, dict):
        what = "a list" if isinstance(tree.value, list) else show(tree)
        raise UserError(f"is not a recipe: a mapping of keys to values is needed, not {what}", where=str(Origin(file)))
    return Node(tree.value, Origin(file))


def parse_value(text: str) -> Node:
    """A value given on the command line, by the same rules as in a file. Raises UserError."""
    return _parse(text, None) or Node(None, COMMAND_LINE)


def show(node: Node) -> str:
    """The value as it would be written, for a message: `"proxy"`, `0.5`, `true`, `null`, `[1, 2]`, `a mapping`."""
    value = node.value
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        text = "[" + ", ".join(show(child) for child in value) + "]"
        return text if len(text) <= 60 else f"a list of {len(value)}"
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 60 else value[:57] + "…", ensure_ascii=False)
    return json.dumps(value)


class _Loader(yaml.SafeLoader):
    """Only composes nodes; what a plain scalar means is settled by the table below."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (this is how PyYAML wants it)


_TAG = "tag:yaml.org,2002:"
FLOAT = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
)
for _name, _pattern, _first in (
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    ("int", re.compile(r"[-+]?[0-9][0-9_]*\Z"), list("-+0123456789")),
    ("float", FLOAT, list("-+.0123456789")),
    ("merge", re.compile(r"<<\Z"), ["<"]),
):
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, _first)


def _scalar(tag: str, text: str) -> Any:
    match tag.removeprefix(_TAG):
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return int(text.replace("_", ""))
        case "float":
            return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan").lower())
        case _:
            return text


def _parse(text: str, file: Path | None) -> Node | None:
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        return None if root is None else _Tree(file).node(root)
    except yaml.reader.ReaderError as error:
        where = COMMAND_LINE if file is None else Origin(file)
        raise UserError(f"is not a text file (character #x{error.character:02x})", where=str(where)) from error
    except yaml.MarkedYAMLError as error:
        unfinished = "end" in (error.problem or "") and error.context_mark  # shown where it begins
        mark = unfinished or error.problem_mark or error.context_mark
        where = COMMAND_LINE if file is None else Origin(file, mark.line + 1 if mark else 0)
        raise UserError(_explain(error), where=str(where)) from error


def _explain(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "cannot be read"
    if r"'\t'" in problem:
        return "broken YAML: a tab; indent with spaces"
    if "mapping values are not allowed" in problem:
        return 'broken YAML: a second ": " on this line, or wrong indentation; text that holds ": " needs quotes'
    if "single document" in (error.context or ""):
        return 'broken YAML: a second document ("---"); a recipe is one document'
    context = f" {error.context}" if error.context and error.context != problem else ""
    return f"broken YAML{context}: {problem}"


class _Tree:
    """Turns PyYAML's nodes, which have marks, into ours."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.done: dict[int, Node | None] = {}  # None: under way. An aliased node is met more than once.

    def origin(self, node: yaml.Node) -> Origin:
        return COMMAND_LINE if self.file is None else Origin(self.file, node.start_mark.line + 1)

    def node(self, source: yaml.Node, origin: Origin | None = None) -> Node:
        """`origin` is that of the key, which is where a person looks; an element of a list has its own."""
        origin = origin or self.origin(source)
        if id(source) in self.done:
            finished = self.done[id(source)]
            if finished is None:
                raise UserError("an alias that contains itself", where=str(origin))
            return finished
        self.done[id(source)] = None
        self.done[id(source)] = finished = Node(self.value(source), origin)
        return finished

    def value(self, source: yaml.Node) -> Any:
        kinds = {yaml.ScalarNode: ("str", "int", "float", "bool", "null"), yaml.SequenceNode: ("seq",)}
        if source.tag.removeprefix(_TAG) not in kinds.get(type(source), ("map",)):
            raise UserError(f'the tag "{source.tag}" is not allowed in a recipe', where=str(self.origin(source)))
        if isinstance(source, yaml.ScalarNode):
            return _scalar(source.tag, source.value)
        if isinstance(source, yaml.SequenceNode):
            return [self.node(child) for child in source.value]
        assert isinstance(source, yaml.MappingNode)
        first: dict[str, int] = {}
        for key, _ in source.value:
            if key.tag == _TAG + "merge":
                continue
            if key.tag != _TAG + "str":
                written = key.value if isinstance(key, yaml.ScalarNode) else "that is not a word"
                raise UserError(f"the key {written} must be text; put it in quotes", where=str(self.origin(key)))
            if key.value in first:
                message = f'the key "{key.value}" is written twice'
                message += f", first on line {first[key.value]}" if self.file else ""
                raise UserError(message, where=str(self.origin(key)))
            first[key.value] = key.start_mark.line + 1
        return {name: self.node(child, self.origin(key)) for name, (key, child) in self.pairs(source).items()}

    def pairs(self, source: yaml.Node, within: tuple[yaml.Node, ...] = ()) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """A mapping's keys and values, what it merges (`<<`) included: its own win, then what is merged first."""
        if not isinstance(source, yaml.MappingNode):
            raise UserError("<< takes a mapping, or a list of mappings", where=str(self.origin(source)))
        if source in within:
            raise UserError("an alias that contains itself", where=str(self.origin(source)))
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, child in source.value:
            if key.tag != _TAG + "merge":
                own[key.value] = key, child
                continue
            for other in child.value if isinstance(child, yaml.SequenceNode) else [child]:
                merged = {**self.pairs(other, (*within, source)), **merged}
        return {**merged, **own}
