"""YAML text → a tree of values that know where they were written.

The YAML is that of version 1.2 where 1.1 surprises: `1e-4` is a number; `yes`, `on`, `1:30` and `2024-01-01` are text.
Keys are text and occur once in a mapping; anchors, aliases and `<<` work; tags do not. A recipe may come from a
stranger, so its size, its depth, and what its aliases stand for are limited.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any, Final

import yaml

from t2x_core.errors import UserError
from t2x_core.recipe.source import COMMAND_LINE, Node, Origin, show

LARGEST_FILE: Final = 128 * 1024
"""Bytes of a recipe file, at most."""
MOST_VALUES: Final = 5000
"""Values of a file or an override, at most; an alias counts as what it stands for."""
DEEPEST: Final = 40
"""Mappings and lists inside each other, at most."""
LONGEST_NUMBER: Final = 400
"""Characters of a number, at most."""


def read_yaml(file: Path) -> Node:
    """The recipe file as a tree. Raises UserError with file and line for whatever is not a mapping in YAML."""
    try:
        text = _read(file).decode("utf-8-sig")
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


def _read(file: Path) -> bytes:
    if not stat.S_ISREG(os.stat(file).st_mode):  # a pipe may never end, nor may a device
        raise UserError("is not a recipe: it is not a file that can be read again", where=str(Origin(file)))
    with file.open("rb") as opened:
        content = opened.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise UserError(f"is larger than {LARGEST_FILE // 1024} KiB, which no recipe is", where=str(Origin(file)))
    return content


def parse_value(text: str) -> Node:
    """A value given on the command line, by the same rules as in a file. Raises UserError."""
    return _parse(text, None) or Node(None, COMMAND_LINE)


class _RefusedError(yaml.MarkedYAMLError):
    """YAML that is not allowed in a recipe."""


class _Loader(yaml.SafeLoader):
    """Only composes nodes; what a plain scalar means is settled by the table below."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (this is how PyYAML wants it)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        self._depth += 1
        self._values += 1
        problem = None
        if (tag := getattr(event, "tag", None)) is not None:
            problem = f'the tag "{tag}" is not allowed in a recipe'
        elif self._depth > DEEPEST:
            problem = f"more than {DEEPEST} mappings and lists inside each other"
        elif self._values > 2 * MOST_VALUES:  # keys are composed, too
            problem = f"more than {MOST_VALUES} values, which no recipe has"
        if problem is not None:
            raise _RefusedError(problem=problem, problem_mark=event.start_mark)
        composed = super().compose_node(parent, index)
        self._depth -= 1
        return composed


_TAG = "tag:yaml.org,2002:"
_DIGITS = "[0-9]+(?:_[0-9]+)*"
FLOAT = re.compile(
    rf"(?:[-+]?(?:\.[0-9]+|{_DIGITS}(?:\.(?:{_DIGITS})?)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)"
    r"|\.(?:nan|NaN|NAN))\Z"
)
for _name, _pattern, _first in (
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    ("int", re.compile(rf"[-+]?{_DIGITS}\Z"), list("-+0123456789")),
    ("float", FLOAT, list("-+.0123456789")),
    ("merge", re.compile(r"<<\Z"), ["<"]),
):
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, _first)


def _parse(text: str, file: Path | None) -> Node | None:
    where = COMMAND_LINE if file is None else Origin(file)
    try:
        root = _Loader(text).get_single_node()
    except yaml.reader.ReaderError as error:
        raise UserError(f"is not a text file (character #x{error.character:02x})", where=str(where)) from error
    except yaml.MarkedYAMLError as error:
        unfinished = "end" in (error.problem or "") and error.context_mark  # shown where it begins
        mark = unfinished or error.problem_mark or error.context_mark
        where = COMMAND_LINE if file is None else Origin(file, mark.line + 1 if mark else 0)
        raise UserError(_explain(error), where=str(where)) from error
    except (ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML lets some of what it meets through, such as chr() of an escape that is no character.
        raise UserError(f"broken YAML: {error}", where=str(where)) from error
    return None if root is None else _Tree(file).node(root)


def _explain(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "cannot be read"
    if isinstance(error, _RefusedError):
        return problem
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
        self.done: dict[int, tuple[Node, int] | None] = {}  # None: under way. An aliased node is met more than once.
        self.merged: dict[int, dict[str, tuple[yaml.Node, yaml.Node]] | None] = {}  # None: under way
        self.values = 0

    def origin(self, node: yaml.Node) -> Origin:
        return COMMAND_LINE if self.file is None else Origin(self.file, node.start_mark.line + 1)

    def count(self, values: int, origin: Origin) -> None:
        """Notes that there are so many values more."""
        self.values += values
        if self.values > MOST_VALUES:
            raise UserError(f"aliases that stand for more than {MOST_VALUES} values", where=str(origin))

    def node(self, source: yaml.Node, origin: Origin | None = None) -> Node:
        """`origin` is that of the key, which is where a person looks; an element of a list has its own."""
        origin = origin or self.origin(source)
        if id(source) in self.done:
            finished = self.done[id(source)]
            if finished is None:
                raise UserError("an alias that contains itself", where=str(origin))
            self.count(finished[1], origin)
            return finished[0]
        self.done[id(source)] = None
        before = self.values
        self.count(1, origin)
        node = Node(self.value(source), origin)
        self.done[id(source)] = node, self.values - before
        return node

    def value(self, source: yaml.Node) -> Any:
        if isinstance(source, yaml.ScalarNode):
            return self.scalar(source)
        if isinstance(source, yaml.SequenceNode):
            return [self.node(child) for child in source.value]
        assert isinstance(source, yaml.MappingNode)
        return {name: self.node(child, self.origin(key)) for name, (key, child) in self.pairs(source).items()}

    def scalar(self, source: yaml.ScalarNode) -> Any:
        kind, text = source.tag.removeprefix(_TAG), source.value
        if kind in ("int", "float") and len(text) > LONGEST_NUMBER:
            raise UserError(f"a number of {len(text)} characters", where=str(self.origin(source)))
        match kind:
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return int(text.replace("_", ""))
            case "float":
                return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan").lower())
            case "merge":
                raise UserError("<< is a key, and no value", where=str(self.origin(source)))
            case _:
                return text

    def pairs(self, source: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """A mapping's keys and values, what it merges (`<<`) included: its own win, then what is merged first."""
        if id(source) in self.merged:
            if (finished := self.merged[id(source)]) is None:
                raise UserError("an alias that contains itself", where=str(self.origin(source)))
            return finished
        self.merged[id(source)] = None
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, child in source.value:
            if key.tag != _TAG + "merge":
                self.check_key(key, own)
                own[key.value] = key, child
                continue
            for other in child.value if isinstance(child, yaml.SequenceNode) else [child]:
                if not isinstance(other, yaml.MappingNode):
                    problem = "<< takes a mapping, or a list of mappings"
                    raise UserError(problem, where=str(self.origin(source)))
                found = self.pairs(other)
                self.count(1 + len(found), self.origin(key))
                merged = {**found, **merged}
        self.merged[id(source)] = finished = {**merged, **own}
        return finished

    def check_key(self, key: yaml.Node, seen: dict[str, tuple[yaml.Node, yaml.Node]]) -> None:
        """UserError if a key is not text, or occurs twice."""
        if key.tag != _TAG + "str":
            written = key.value if isinstance(key, yaml.ScalarNode) else "that is not a word"
            raise UserError(f"the key {written[:60]} must be text; put it in quotes", where=str(self.origin(key)))
        if key.value in seen:
            message = f'the key "{key.value}" is written twice'
            message += f", first on line {seen[key.value][0].start_mark.line + 1}" if self.file else ""
            raise UserError(message, where=str(self.origin(key)))
