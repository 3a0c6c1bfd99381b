"""Numbers, sizes, times and quotations in messages."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

LONGEST = 80
"""Characters of what is quoted from a file."""
_SINGULAR = {"are": "is", "have": "has", "go": "goes", "do": "does"}


def counted(number: int, noun: str, verb: str = "") -> str:
    """ "1 video", "2 videos"; with a verb in its plural ("have"), "1 video has"."""
    one = number == 1
    plural = f"{noun}es" if noun.endswith(("s", "x", "ch")) else re.sub(r"(?<=[^aeiou])y$", "ie", noun) + "s"
    text = f"{number:,} {noun if one else plural}"
    if verb:
        text += f" {_SINGULAR.get(verb, f'{verb}s') if one else verb}"
    return text


def shorten(text: str, longest: int = LONGEST) -> str:
    """On one line, and cut where it is longer than that."""
    line = " ".join(text.splitlines())
    return line if len(line) <= longest else f"{line[: longest - 2]} …"


def quoted(value: object) -> str:
    """A cell of a table as JSON, shortened."""
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value):,} bytes"
    try:
        return shorten(json.dumps(value, default=lambda other: f"<{type(other).__name__}>"))
    except (ValueError, RecursionError):  # a number of thousands of digits; lists in lists in lists
        return f"<{type(value).__name__}>"


def first_of(names: Sequence[str], count: int = 3) -> str:
    """The first names, each shortened, and a mark if there are more."""
    return ", ".join(map(shorten, names[:count])) + (" …" if len(names) > count else "")


def duration(seconds: float) -> str:
    """ "12 d 4 h", "2 h 10 min", "3 min 20 s", "8 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, left = divmod(hours, 24)
    if days >= 2:
        return f"{days} d {left} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def rounded(number: float) -> str:
    """ "0.37", "27.6", "28,219"."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def file_size(count: float) -> str:
    """ "41 GB", "3.2 MB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
