"""Templates of captions, and the words that may fill their slots."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from .scene import choose

Slots = Mapping[str, Sequence[str]]
"""Name of each slot → the words that it may take; ("",) where nothing is said. The first are the plainest."""


def plainest(templates: Sequence[str], slots: Slots) -> str:
    """The first template with the first words."""
    return _fill(templates[0], {slot: words[0] for slot, words in slots.items()})


def any_wording(templates: Sequence[str], slots: Slots, rng: random.Random) -> str:
    """A template, and words for it, each equally likely; in lower case."""
    template = choose(rng, templates)
    return _fill(template, {slot: choose(rng, words) for slot, words in slots.items()})


def all_wordings(templates: Sequence[str], slots: Slots) -> Iterator[str]:
    """Every text that `any_wording` can give."""
    for template in templates:
        used = [slot for slot in slots if f"{{{slot}}}" in template]
        for words in product(*(slots[slot] for slot in used)):
            yield _fill(template, dict.fromkeys(slots, "") | dict(zip(used, words, strict=True)))


def articles(text: str) -> str:
    """`@ ` becomes "a " or "an ", as the next letter wants it."""
    return re.sub(r"@ (?=(.))", lambda found: "an " if found[1] in "aeiou" else "a ", text)


def _fill(template: str, words: Mapping[str, str]) -> str:
    text = " ".join(template.format(**words).split())
    return articles(re.sub(r"( ?,)+", ",", text).strip(", "))
