"""Keys of earlier versions: each is read for one version as what it is called now, and the log says so."""

from __future__ import annotations

from t2x_core.recipe.source import Node

OLD_TEXT_ENCODER = "text_encoder"
"""Until 0.1: the only text encoder. Now `text_encoders` holds any number by name."""


def rename(root: Node) -> tuple[Node, list[str]]:
    """A recipe file's (or an override's) own tree with today's keys, and a line for each key that was renamed."""
    if not isinstance(root.value, dict) or OLD_TEXT_ENCODER not in root.value or "text_encoders" in root.value:
        return root, []
    block = root.value[OLD_TEXT_ENCODER]
    if isinstance(block.value, dict):
        named = block.value.get("name")
        name = named.value if named is not None and isinstance(named.value, str) else "bytes"
        encoders = Node(
            {name: block} if name == "bytes" else {"bytes": Node(None, block.origin), name: block}, block.origin
        )
    elif block.value is None:
        name, encoders = "", block
    else:
        return root, []  # a mistake, which is told by its old name
    entries = {("text_encoders" if key == OLD_TEXT_ENCODER else key): value for key, value in root.value.items()}
    entries["text_encoders"] = encoders
    now = f"text_encoders.{name}" if name else "text_encoders"
    return Node(entries, root.origin), [f"{OLD_TEXT_ENCODER} is now {now} ({block.origin})"]
