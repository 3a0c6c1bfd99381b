"""Keys of earlier versions: each is read for one version as what it is called now, and the log says so."""

from __future__ import annotations

import re

from t2x_core.recipe.source import Node

Path = tuple[str, ...]

RENAMED: tuple[tuple[Path, str], ...] = (
    (("watch",), "logging"),
    (("tasks", "*", "data", "pictures"), "images"),
    (("tasks", "text-to-video", "data", "shapes"), "moving-shapes"),
    (("tasks", "*", "data", "moving-shapes", "pictures"), "images"),
)
"""Paths of keys until 0.1, `*` for any key, and the key's name now."""
TEXT_ENCODER = "text_encoder"
"""Until 0.1: the only text encoder. Now `text_encoders` holds any number by name."""
INIT_FROM = "init_from"
"""Until 0.1: the weights to begin with. Now `backbone.weights`."""


def rename(root: Node) -> tuple[Node, list[str]]:
    """A recipe file's (or an override's) own tree with today's keys, and a line for each key that was renamed."""
    notes: list[str] = []
    return _first_weights(_text_encoders(_renamed(root, (), notes), notes), notes), notes


def _renamed(node: Node, path: Path, notes: list[str]) -> Node:
    """The tree with the keys of RENAMED, and with interpolations that name them."""
    if isinstance(node.value, str) and "${" in node.value:
        return Node(_in_interpolations(node.value), node.origin)
    if isinstance(node.value, list):
        return Node([_renamed(child, path, notes) for child in node.value], node.origin)
    if not isinstance(node.value, dict):
        return node
    entries: dict[str, Node] = {}
    for key, child in node.value.items():
        now = _name_now((*path, key))
        if now != key and now in node.value:
            now = key  # both are there: the check says that the old one is unknown
        if now != key:
            notes.append(f"{'.'.join((*path, key))} is now {'.'.join((*path, now))} ({child.origin})")
        entries[now] = _renamed(child, (*path, now), notes)
    return Node(entries, node.origin)


def _name_now(path: Path) -> str:
    for old, now in RENAMED:
        if len(old) == len(path) and all(a in ("*", b) for a, b in zip(old, path, strict=True)):
            return now
    return path[-1]


def _in_interpolations(text: str) -> str:
    """`${watch.samples}` → `${logging.samples}`; all else stays as it is written."""

    def now(found: re.Match[str]) -> str:
        keys = tuple(found[1].split("."))
        for end in range(1, len(keys) + 1):
            keys = (*keys[: end - 1], _name_now(keys[:end]), *keys[end:])
        return "${" + ".".join(keys) + "}"

    return re.sub(r"\$\{([\w.-]+)\}", now, text)


def _text_encoders(root: Node, notes: list[str]) -> Node:
    if not isinstance(root.value, dict) or TEXT_ENCODER not in root.value or "text_encoders" in root.value:
        return root
    block = root.value[TEXT_ENCODER]
    if isinstance(block.value, dict):
        named = block.value.get("name")
        name = named.value if named is not None and isinstance(named.value, str) else "bytes"
        encoders = Node(
            {name: block} if name == "bytes" else {"bytes": Node(None, block.origin), name: block}, block.origin
        )
    elif block.value is None:
        name, encoders = "", block
    else:
        return root  # a mistake, which the check reports under the name that was written
    entries = {("text_encoders" if key == TEXT_ENCODER else key): value for key, value in root.value.items()}
    entries["text_encoders"] = encoders
    now = f"text_encoders.{name}" if name else "text_encoders"
    notes.append(f"{TEXT_ENCODER} is now {now} ({block.origin})")
    return Node(entries, root.origin)


def _first_weights(root: Node, notes: list[str]) -> Node:
    if not isinstance(root.value, dict) or INIT_FROM not in root.value:
        return root
    entries = dict(root.value)
    weights = entries.pop(INIT_FROM)
    block = entries.get("backbone", Node({}, weights.origin))
    if not isinstance(block.value, dict) or "weights" in block.value:
        return root
    if weights.value is not None:
        notes.append(f"{INIT_FROM} is now backbone.weights ({weights.origin})")
    entries["backbone"] = Node({**block.value, "weights": weights}, block.origin)
    return Node(entries, root.origin)
