"""A JSON schema of recipe files, for editors: they complete keys and underline mistakes.

A file may be part of a recipe (`base`), so nothing is required in one that has a base; any value may be null, which
takes away what was inherited, or text with an interpolation, `${a.b}`. What only shows in several settings together is
left to `t2x show`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2x_core.recipe.check import LARGEST_FLOAT, LARGEST_INT, field_types
from t2x_core.recipe.components import Kind, SourcedTaskConfig
from t2x_core.recipe.constraints import Range
from t2x_core.recipe.dump import to_plain
from t2x_core.recipe.field_docs import field_docs
from t2x_core.recipe.schema import Recipe
from t2x_core.remote import Url

Schema = dict[str, Any]

OPEN: list[Schema] = [{"type": "null"}, {"type": "string", "pattern": r"\$\{"}]
"""What any value of a file may be as well."""
_TYPES: dict[Any, Schema] = {
    bool: {"type": "boolean"},
    int: {"type": "integer", "minimum": -LARGEST_INT, "maximum": LARGEST_INT},
    float: {"type": "number", "minimum": -LARGEST_FLOAT, "maximum": LARGEST_FLOAT},
    str: {"type": "string"},
    Path: {"type": "string"},
    Url: {"type": "string"},
    types.NoneType: {"type": "null"},
    Any: {},
}
_BOUNDS = {"min": "minimum", "max": "maximum", "above": "exclusiveMinimum", "below": "exclusiveMaximum"}


def json_schema(settings: Mapping[Kind, Mapping[str, type | None]]) -> Schema:
    """The schema of a recipe file (JSON Schema, draft 2020-12).

    Args:
        settings: for each kind, name → dataclass of the block; None if a plugin does not list its settings, which makes
            its block one of anything.
    """
    schema = _block(Recipe)
    properties = schema["properties"]
    names = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]}
    properties["base"] = {**names, "description": "Recipes to start from: paths, or names; a later one wins."}
    tasks = {
        name: _or_open(_task(block, settings["source"]) if block else {}) for name, block in settings["task"].items()
    }
    _refine(properties["tasks"], {"type": "object", "properties": tasks, "additionalProperties": False})
    _refine(properties["codec"], _component(settings["codec"]))
    encoder = _or_open(_component(settings["text_encoder"]))
    _refine(properties["text_encoders"], {"type": "object", "additionalProperties": encoder})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "t2x recipe",
        **schema,
        "if": {"required": ["base"]},
        "else": _required(Recipe),
    }


def _task(schema: type, sources: Mapping[str, type | None]) -> Schema:
    """The block of a task; its data is one of the sources that fit it."""
    block = _block(schema)
    if issubclass(schema, SourcedTaskConfig):
        fitting = {
            name: _or_open(_block(source) if source else {})
            for name, source in sources.items()
            if source is None or issubclass(source, schema.source_class)
        }
        _refine(block["properties"]["data"], {"type": "object", "properties": fitting, "additionalProperties": False})
    return block


def _refine(setting: Schema, block: Schema) -> None:
    setting["anyOf"] = [block, *OPEN]


def _component(known: Mapping[str, type | None]) -> Schema:
    """The block of a codec or a text encoder: that of its name; without one (it may be inherited) that of any."""
    blocks = {name: _block(block) if block else {"type": "object"} for name, block in known.items()}
    named = [
        {"if": {"required": ["name"], "properties": {"name": {"const": name}}}, "then": block}
        for name, block in blocks.items()
    ]
    any_name = {"anyOf": [{"enum": list(blocks)}, *OPEN]}
    return {
        "type": "object",
        "properties": {"name": any_name},
        "allOf": named,
        "if": {"not": {"required": ["name"]}},
        "then": {"anyOf": list(blocks.values()) or [{}]},
    }


def _block(schema: type) -> Schema:
    """The block of a dataclass; nothing is required, since it may be inherited."""
    docs, kinds = field_docs(schema), field_types(schema)
    properties = {}
    for field in dataclasses.fields(schema):
        if field.name not in kinds:
            continue
        setting = _or_open(_value(kinds[field.name]))
        if field.name in docs:
            setting["description"] = docs[field.name]
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        if default is not dataclasses.MISSING and not dataclasses.is_dataclass(default):
            setting["default"] = to_plain(default)
        properties[field.name] = setting
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _value(kind: Any) -> Schema:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _block(typing.cast(type, kind))
    if origin is typing.Annotated:
        inner = _value(arguments[0])
        for bound in arguments[1:]:
            if isinstance(bound, Range):
                limits = {_BOUNDS[name]: value for name, value in vars(bound).items() if value is not None}
                inner = {"allOf": [inner, limits]}
        return inner
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_value(option) for option in arguments]}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _or_open(_value(arguments[1]))}
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        return {"type": "array", "items": _or_open(_value(arguments[0])), "minItems": 0 if origin is list else 1}
    if origin is tuple:
        items = [_or_open(_value(item)) for item in arguments]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    return dict(_TYPES[kind])


def _or_open(value: Schema) -> Schema:
    return {"anyOf": [value, *OPEN]} if value else {}


def _required(schema: type) -> Schema:
    """What a recipe without a base must say, in this block and in those inside that it must have."""
    kinds, names, inside = field_types(schema), [], {}
    for field in dataclasses.fields(schema):
        without = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.name in kinds and without:
            names.append(field.name)
            if dataclasses.is_dataclass(kinds[field.name]):
                inside[field.name] = _required(typing.cast(type, kinds[field.name]))
    return {"required": names, "properties": inside}
