"""The settings of a block, written as a recipe would: each with its default, type, range and meaning."""

from __future__ import annotations

import dataclasses
import textwrap
import typing
from collections.abc import Mapping
from typing import Any

from t2x_core.recipe.check import describe, field_types
from t2x_core.recipe.components import SourceConfig
from t2x_core.recipe.dump import dump_yaml, to_plain
from t2x_core.recipe.field_docs import field_docs


def commented(schema: type, known: Mapping[str, Any] | None = None) -> str:
    """YAML of the block, to read and to copy from. `known`: values that take the place of the schema's defaults."""
    return "\n".join(_block(schema, dict(known or {})))


def _block(schema: type, values: Mapping[str, Any]) -> list[str]:
    """`values`: field → default, where it is not the schema's own."""
    docs, kinds, lines = field_docs(schema), field_types(schema), []
    for field in dataclasses.fields(schema):
        if field.name in kinds:
            lines += textwrap.wrap(docs.get(field.name, ""), 110, initial_indent="# ", subsequent_indent="# ")
            lines += _setting(field.name, kinds[field.name], values.get(field.name, _default(field)))
    return lines


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _setting(name: str, kind: Any, default: Any) -> list[str]:
    inner = next((option for option in (kind, *typing.get_args(kind)) if _is_block(option)), None)
    if inner is None:
        if default is dataclasses.MISSING:
            return [f"{name}:  # required: {describe(kind)}"]
        first, *more = dump_yaml({name: to_plain(default)}).splitlines()
        return [f"{first}  # {describe(kind)}", *more]
    if inner is SourceConfig:
        return [f"{name}:", "  a-source: {}  # `t2x plugins` lists the sources, and shows the settings of each"]
    if typing.get_origin(kind) is dict:  # blocks by name
        return [f"{name}:", "  a-name:", *(f"    {line}" for line in _block(inner, {}))]
    if default is None:  # a block that may be left out
        return [f"{name}: null  # or a block:", *(f"#   {line}" for line in _block(inner, {}))]
    given = vars(default) if _is_block(type(default)) else {}
    lines = [f"  {line}" for line in _block(inner, given)]
    return [f"{name}:", *lines] if lines else [f"{name}: {{}}"]


def _is_block(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)
