"""A recipe with comments, as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from t2x_core.starting.summary import Setting
from t2x_core.terminal import printable


def recipe_text(head: Iterable[str], base: str, settings: Iterable[Setting]) -> str:
    """The YAML of a recipe: comments, what it starts from, and settings in blocks, each block where it comes first."""
    tree: dict[str, Any] = {}
    for setting in settings:
        *blocks, key = setting.key.split(".")
        place = tree
        for block in blocks:
            place = place.setdefault(block, {})
        place[key] = setting
    lines = [f"# {printable(line)}".rstrip() for line in head]
    for name, block in tree.items():
        lines += ["", *_block({name: block}, 0)] if name != "tasks" else _block({name: block}, 0)
    return "\n".join([*lines[: len(list(head))], f"base: {base}", *lines[len(list(head)) :]]) + "\n"


def _block(tree: Mapping[str, Any], depth: int) -> list[str]:
    lines = []
    for key, inner in tree.items():
        start = f"{'  ' * depth}{plain(key)}:"
        if isinstance(inner, Setting):
            why = f"  # {printable(inner.why)}" if inner.why else ""
            lines.append(f"{start} {plain(inner.value)}{why}")
        else:
            lines += [start, *_block(inner, depth + 1)]
    return lines


def plain(value: Any) -> str:
    """A value on one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
