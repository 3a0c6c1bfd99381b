"""Checked dataclasses → plain containers → YAML that `load_recipe` reads back to the same recipe."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from t2x_core.paths import home_as_tilde
from t2x_core.recipe.yaml_tree import FLOAT
from t2x_core.remote import Url
from t2x_core.terminal import UNSAFE


def to_plain(value: Any) -> Any:
    """Dataclasses and containers as dicts, lists and scalars: tuples become lists, a Path becomes text,
    and so does a URL, without what is secret about it."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, dict):
        return {key: to_plain(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(child) for child in value]
    return str(value) if isinstance(value, Path | Url) else value


def portable(value: Any, *keys: str, moved: Mapping[str, str] | None = None) -> Any:
    """As `to_plain`, for a model that is given away: it says neither where the training data was, of which the last
    name stays, nor where runs and cache were; what was `moved` is where it is now. One's home folder is `~`.

    Args:
        keys: of a recipe, down to `value`.
        moved: setting → what it says instead.
    """
    if moved and (path := ".".join(keys)) in moved:
        return moved[path]
    if keys in (("backbone", "weights"), ("cache", "folder"), ("diffusion", "repa")):
        return None
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return {name: portable(getattr(value, name), *keys, name, moved=moved) for name in fields}
    if isinstance(value, dict):
        return {key: portable(child, *keys, str(key), moved=moved) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable(child, *keys, moved=moved) for child in value]
    if isinstance(value, Url):
        return value.name or "."
    if not isinstance(value, Path):
        return value
    if keys[0] == "logging" or (keys[0] == "tasks" and keys[2:3] == ("data",)):
        return "." if home_as_tilde(value) == "~" else value.name or "."
    return home_as_tilde(value)


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """Nested mappings as one: "trainer.max_steps" → its value."""
    if not isinstance(tree, Mapping):
        return {path: tree}
    return {k: v for key, sub in tree.items() for k, v in flat(sub, f"{path}.{key}" if path else str(key)).items()}


def dump_yaml(plain: Any) -> str:
    """YAML text of plain containers: keys in their order, lists of scalars on one line."""
    text = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return re.sub(f"(?!\n){UNSAFE.pattern}", lambda found: _escape(found[0]), text)  # in quotes: see `_text`


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _list(dumper: _Dumper, items: list[Any]) -> yaml.Node:
    short = not any(isinstance(item, (dict, list)) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=short)


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # a resolved value holds no interpolation
    # What a terminal would obey is escaped, which needs quotes.
    return dumper.represent_scalar("tag:yaml.org,2002:str", escaped, style='"' if UNSAFE.search(text) else None)


def _escape(letter: str) -> str:
    return f"\\u{ord(letter):04X}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08X}"


_Dumper.add_representer(list, _list)
_Dumper.add_representer(str, _text)
# PyYAML takes the text "1e-4" for text, and would leave out the quotes that keep it so when we read it.
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))
