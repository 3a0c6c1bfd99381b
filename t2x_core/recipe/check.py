"""Checks a composed recipe against dataclasses: keys, types, ranges. The first mistake is raised as a UserError.

A field may be a bool, int, float, str, Path, Literal, Any, another dataclass; `list[T]`, `tuple[T, …]`, `dict[str, T]`;
a union of these; and Annotated with constraints. A `list[T]` may be empty, a `tuple[T, ...]` may not.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
import struct
import types
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from t2x_core.errors import UserError, did_you_mean
from t2x_core.paths import user_path
from t2x_core.recipe.compose import Composed
from t2x_core.recipe.constraints import FROM_CURRENT_FOLDER, PATH_OR_NAME, Constraint
from t2x_core.recipe.field_docs import field_docs
from t2x_core.recipe.source import Node, Origin, located, show
from t2x_core.recipe.yaml_tree import parse_value
from t2x_core.remote import Url, is_url, public_url
from t2x_core.terminal import escape

Schema = TypeVar("Schema")

LARGEST_INT = 2**63 - 1
LARGEST_FLOAT, SMALLEST_FLOAT = 3.4028234663852886e38, 1.1754943508222875e-38
"""What float32 holds, with all its digits."""


class _WrongTypeError(UserError):
    """The node itself, not something inside it, has the wrong type: another member of a union may still take it."""

    def __init__(self, kind: Any, node: Node, path: str) -> None:
        problem, hint = f"{path} must be {_describe(kind)}, not {show(node)}", _suggest(kind, node)
        if node.problem:
            problem, hint = f"{path} must be {_describe(kind)}, and what is written is {node.problem}", ""
        super().__init__(problem, where=str(node.origin), hint=hint)
        self.node = node


def build(schema: type[Schema], composed: Composed, path: str = "") -> Schema:
    """An instance of the dataclass `schema` from the block at `path` ("" is the whole recipe).

    A block that nobody wrote is one of defaults. Relative paths become absolute: in a recipe they are relative to its
    file, on the command line to the current folder. Raises UserError with file and line; a ValueError of
    `__post_init__` becomes one too.
    """
    block = composed.find(path)
    if block is None or block.value is None:
        block = Node({}, block.origin if block else composed.root.origin)
    return check(schema, block, path)


def check(kind: Any, node: Node, path: str) -> Any:
    """The value of `node` as `kind`, a type annotation. `path` is for the messages."""
    arguments = typing.get_args(kind)
    if kind is Any:
        if node.problem:
            raise UserError(f"{path}: {node.problem}", where=str(node.origin))
        return node.plain()
    if dataclasses.is_dataclass(kind):
        return construct(typing.cast(type, kind), check_fields(typing.cast(type, kind), node, path), node, path)
    match typing.get_origin(kind):
        case typing.Annotated:
            return _annotated(kind, node, path)
        case typing.Union | types.UnionType:
            return _union(kind, node, path)
        case typing.Literal:
            for option in arguments:
                if (type(node.value) is type(option) and node.value == option) or node.text == option:
                    return option
        case builtin if builtin is list or builtin is tuple:
            return _sequence(kind, node, path)
        case builtin if builtin is dict:
            entries = mapping(node, path).items()
            return {
                key: check(arguments[1], child, _join(path, key))
                for key, child in entries
                if not _is_null(arguments[1], child) or _takes_null(arguments[1])
            }
        case _:
            return _scalar(kind, node, path)
    raise _WrongTypeError(kind, node, path)


def mapping(node: Node, path: str) -> Mapping[str, Node]:
    """The entries of a node that must be a mapping."""
    if not isinstance(node.value, dict):
        raise _WrongTypeError(dict, node, path)
    return node.value


def check_fields(schema: type, node: Node, path: str, later: Collection[str] = ()) -> dict[str, Any]:
    """The checked values of those fields of a dataclass that the block sets, without the ones named in `later`."""
    entries = mapping(node, path)
    kinds = field_types(schema)
    for key, unknown in entries.items():
        if key not in kinds:
            inside = _find_inside(schema, key)
            hint = f'did you mean "{_join(path, inside)}"?' if inside else did_you_mean(key, kinds)
            hint = hint or f"known here: {', '.join(kinds)}"
            raise UserError(f'unknown key "{_join(path, key)}"', where=str(unknown.origin), hint=hint)
    values = {}
    for field in dataclasses.fields(schema):
        if field.name not in kinds or field.name in later:
            continue
        kind = kinds[field.name]
        child: Node | None = entries.get(field.name)
        if child is None or (_is_null(kind, child) and not _takes_null(kind)):
            if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING:
                continue
            origin = (child or node).origin
            if not dataclasses.is_dataclass(kind):
                missing(schema, field.name, path, origin)
            child = Node({}, origin)  # so that the message names what is missing inside
        values[field.name] = check(kind, child, _join(path, field.name))
    return values


def missing(schema: type, name: str, path: str, origin: Origin) -> NoReturn:
    """Raises the UserError for a required field that is not set; its docstring says what it is."""
    meaning = field_docs(schema).get(name)
    raise UserError(f"{_join(path, name)} is missing" + (f" ({meaning})" if meaning else ""), where=str(origin))


def construct(schema: type[Schema], values: Mapping[str, Any], block: Node, path: str) -> Schema:
    """The instance; what its `__post_init__` refuses is the mistake of the block."""
    try:
        return schema(**values)
    except ValueError as error:
        raise located(error, block, path) from error


@functools.cache
def field_types(schema: type) -> dict[str, Any]:
    """Name → annotation of those fields that a recipe may set."""
    hints = typing.get_type_hints(schema, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema) if field.init}


def _annotated(kind: Any, node: Node, path: str) -> Any:
    inner, *metadata = typing.get_args(kind)
    if inner is Path and FROM_CURRENT_FOLDER in metadata:
        return _path(check(str, node, path), node, path)
    value = check(inner, node, path)
    if PATH_OR_NAME in metadata and value:
        place = os.path.abspath(node.origin.folder / _path(value, node, path))
        value = place if os.path.exists(place) else value
    for constraint in metadata:
        if not isinstance(constraint, Constraint):
            continue
        if requirement := constraint.requirement(value):
            raise UserError(f"{path} must be {requirement}, not {show(node)}", where=str(node.origin))
        if type(value) is float and (requirement := constraint.requirement(_in_float32(value))):
            problem = f"{path} must be {requirement}, and {show(node)} is {_in_float32(value):g} in float32"
            raise UserError(problem, where=str(node.origin))
    return value


def _union(kind: Any, node: Node, path: str) -> Any:
    closest = None  # what a member that takes such a node, a list say, finds wrong inside it
    options = typing.get_args(kind)
    if node.text is not None:  # of an override: text is what no other member takes
        options = tuple(sorted(options, key=_is_text))
        if any(map(_is_text, options)):  # so `~` is text, and only `null`, which has no text, is null
            options = tuple(option for option in options if option is not types.NoneType)
    for option in options:
        try:
            return check(option, node, path)
        except UserError as error:
            if closest is None and not (isinstance(error, _WrongTypeError) and error.node is node):
                closest = error
    raise closest or _WrongTypeError(kind, node, path)


def _sequence(kind: Any, node: Node, path: str) -> Any:
    make, inner = typing.get_origin(kind), typing.get_args(kind)
    if not isinstance(node.value, list):
        raise _WrongTypeError(kind, node, path)
    if make is tuple and inner[-1] is Ellipsis and not node.value:
        raise UserError(f"{path} must have at least one entry", where=str(node.origin))
    if make is list or inner[-1] is Ellipsis:
        inner = (inner[0],) * len(node.value)
    if len(inner) != len(node.value):
        raise _WrongTypeError(kind, node, path)
    items = zip(inner, node.value, strict=True)
    return make(check(item, child, f"{path}[{index}]") for index, (item, child) in enumerate(items))


def _scalar(kind: Any, node: Node, path: str) -> Any:
    value: Any = node.text if _is_text(kind) and node.text is not None else node.value
    if kind is float and type(value) in (int, float):
        return _float(node, path)
    if kind is Url and is_url(value):
        return Url(value)
    if kind is Path and is_url(value):
        raise UserError(f"{path} must be on this machine, and {public_url(value)} is a URL", where=str(node.origin))
    if kind is Path and type(value) is str:
        return Path(os.path.abspath(node.origin.folder / _path(value, node, path)))
    if kind not in (bool, int, float, str, Path, Url, types.NoneType):
        raise TypeError(f"{path}: a recipe cannot hold a field of type {kind}")
    if type(value) is not kind:
        raise _WrongTypeError(kind, node, path)
    if kind is int and abs(value) > LARGEST_INT:
        raise UserError(f"{path} must fit into 64 bits, which {show(node)} does not", where=str(node.origin))
    if kind is str and (halves := re.search("[\ud800-\udfff]", value)):
        problem = f'{path} is not text in Unicode: "{escape(halves[0])}" in it is half of a character'
        raise UserError(problem, where=str(node.origin))
    return value


def _float(node: Node, path: str) -> float:
    value = node.value
    if type(value) is float and not math.isfinite(value):
        raise UserError(f"{path} must be finite, not {show(node)}", where=str(node.origin))
    if value != 0 and not SMALLEST_FLOAT <= abs(value) <= LARGEST_FLOAT:
        problem = f"{path} is out of the range of float32, {SMALLEST_FLOAT:.2g} to {LARGEST_FLOAT:.2g}: {show(node)}"
        raise UserError(problem, where=str(node.origin))
    return float(value)


def _in_float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


def _path(text: str, node: Node, path: str) -> Path:
    """The path that is written, with its `~` expanded."""
    try:
        return user_path(text)
    except UserError as error:
        raise UserError(f"{path}: {error.message}", where=str(node.origin), hint=error.hint) from error


def _is_text(kind: Any) -> bool:
    """Whether a setting of that type is text, which an override gives letter by letter."""
    if typing.get_origin(kind) is typing.Annotated:
        return _is_text(typing.get_args(kind)[0])
    return kind in (str, Path, Url)


def _is_null(kind: Any, node: Node) -> bool:
    """Whether a node is null to a setting of that type: `~` behind a `=` is a home folder where a path is wanted."""
    return node.value is None and not (node.text is not None and any(_is_text(option) for option in _options(kind)))


def _find_inside(schema: type, key: str) -> str | None:
    """The path of a field of that name in the blocks of this one: people write `lr` for `optimizer.lr`."""
    for name, kind in field_types(schema).items():
        if dataclasses.is_dataclass(kind):
            inside = key if key in field_types(typing.cast(type, kind)) else _find_inside(typing.cast(type, kind), key)
            if inside:
                return f"{name}.{inside}"
    return None


def _takes_null(kind: Any) -> bool:
    if typing.get_origin(kind) is typing.Annotated:
        return _takes_null(typing.get_args(kind)[0])
    return kind is Any or kind is types.NoneType or types.NoneType in typing.get_args(kind)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


_WORDS = {
    bool: ("true or false", "booleans"),
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    Path: ("a path", "paths"),
    Url: ("a URL", "URLs"),
    types.NoneType: ("null", "nulls"),
}


def describe(kind: Any) -> str:
    """`kind` with its ranges, as a recipe's author would say it: "an integer or null, at least 1"."""
    return ", ".join(dict.fromkeys([_describe(kind), *map(str, _constraints(kind))]))


def _constraints(kind: Any) -> list[Constraint]:
    metadata = getattr(kind, "__metadata__", ())
    inner = [constraint for argument in typing.get_args(kind) for constraint in _constraints(argument)]
    return [*inner, *(constraint for constraint in metadata if isinstance(constraint, Constraint))]


def _describe(kind: Any, plural: bool = False) -> str:
    """`kind` as a recipe's author would say it: "an integer or null", "a list of 3 integers", `"S" or "B"`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _describe(arguments[0], plural)
    if origin in (Literal, typing.Union, types.UnionType):
        *first, last = [word for option in _options(kind) for word in _alternatives(option)]
        return f"{', '.join(first)} or {last}" if first else last
    if origin in (list, tuple):
        items = {_describe(item, plural=True) for item in arguments if item is not Ellipsis}
        count = "" if origin is list or Ellipsis in arguments else f"{len(arguments)} "
        return f"a list of {count}{items.pop() if len(items) == 1 else 'values'}"
    return _WORDS.get(kind, ("a mapping", "mappings"))[plural]


def _alternatives(option: Any) -> list[str]:
    if typing.get_origin(option) is Literal:
        return [show(Node(word, Origin())) for word in typing.get_args(option)]
    return [_describe(option)]


def _options(kind: Any) -> list[Any]:
    """The members of a union, and the annotated type itself, down to what is neither."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [inner for option in typing.get_args(kind) for inner in _options(option)]
    return _options(typing.get_args(kind)[0]) if typing.get_origin(kind) is typing.Annotated else [kind]


def _suggest(kind: Any, node: Node) -> str:
    options, value = _options(kind), node.value
    if isinstance(value, str):
        words = [word for option in options if typing.get_origin(option) is Literal for word in typing.get_args(option)]
        if meant := did_you_mean(value, [word for word in words if isinstance(word, str)]):
            return meant
        try:
            written = type(parse_value(value).value)
        except UserError:
            return ""
        return "remove the quotes" if written in options and written is not str else ""
    if type(value) is float and value.is_integer() and int in options:
        return f"write {int(value)}"
    if type(value) in (int, float, bool) and str in options:
        return "put it in quotes"
    return ""
