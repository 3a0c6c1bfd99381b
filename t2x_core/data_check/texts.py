"""What is wrong with captions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from t2x_core.data_check.kinds import Finding
from t2x_core.interfaces import TextEncoder
from t2x_core.inventory import Entry, Inventory
from t2x_core.terminal import printable

MANY, MANY_SHARE = 5, 0.01
"""Files that have one caption, and their share of all, from which on that is said."""
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_CP1252 = {bytes([byte]).decode("cp1252"): byte for byte in range(0x80, 0xA0) if byte not in b"\x81\x8d\x8f\x90\x9d"}


def check_captions(task: str, inventory: Inventory, encoders: Mapping[str, TextEncoder]) -> Iterator[Finding]:
    """`encoders`: by their names in the recipe."""
    users: dict[str, list[Entry]] = defaultdict(list)
    owners = _owners(inventory)
    for entry in owners:
        if not entry.captions and inventory.captioned:
            yield Finding("no-caption", task, entry.name, "has no caption", entry)
        for caption in entry.captions:
            users[caption].append(entry)
    for caption, entries in users.items():
        first = entries[0]
        if (right := repaired(caption)) is not None:
            detail = f"{quoted_text(caption)} should most likely be {quoted_text(right)}"
            yield Finding("mojibake", task, first.name, detail, first)
        elif "\ufffd" in caption:
            detail = f"{quoted_text(caption)} holds �, which stands for a lost character"
            yield Finding("mojibake", task, first.name, detail, first)
        for name, encoder in encoders.items():
            if encoder.longest is not None and (length := encoder.length(caption)) > encoder.longest:
                detail = (
                    f"{length} tokens, of which text_encoders.{name} reads {encoder.longest}: {quoted_text(caption)}"
                )
                yield Finding("cut", task, first.name, detail, first)
        if caption and len(entries) >= MANY and len(entries) > MANY_SHARE * len(owners):
            detail = f"{len(entries)} of {len(owners)} have the caption {quoted_text(caption)}"
            yield Finding("repeated", task, first.name, detail, first, others=tuple(entries[1:4]))


def _owners(inventory: Inventory) -> Sequence[Entry]:
    """Those that have captions of their own: each file, or, of objects, the first view of each."""
    if not inventory.views:
        return inventory.entries
    return list({entry.group: entry for entry in reversed(inventory.entries)}.values())[::-1]


def quoted_text(text: str) -> str:
    return f"“{printable(text, 80)}”"


def repaired(text: str) -> str | None:
    """The text before its UTF-8 was read as Windows-1252 or Latin-1 ("cafÃ©" → "café"); None if it was not.

    A run of letters beyond ASCII that is UTF-8 when it is written in that encoding is hardly ever a word.
    """
    found = _NOT_ASCII.sub(lambda run: _decoded(run[0]), text)
    return found if found != text else None


def _decoded(run: str) -> str:
    codes = [_CP1252.get(letter, ord(letter)) for letter in run]
    if max(codes) > 255:
        return run
    try:
        return bytes(codes).decode()
    except UnicodeDecodeError:
        return run
