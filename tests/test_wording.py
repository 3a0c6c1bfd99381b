"""Numbers in messages."""

from __future__ import annotations

import pytest

from t2x_core.wording import counted


@pytest.mark.parametrize(
    ("number", "noun", "verb", "text"),
    [
        (1, "video", "", "1 video"),
        (2000, "video", "", "2,000 videos"),
        (2, "entry", "", "2 entries"),
        (2, "array", "", "2 arrays"),
        (0, "box", "", "0 boxes"),
        (1, "batch", "have", "1 batch has"),
        (3, "batch", "have", "3 batches have"),
        (1, "sample", "need", "1 sample needs"),
    ],
)
def test_nouns_and_verbs_agree(number: int, noun: str, verb: str, text: str) -> None:
    assert counted(number, noun, verb) == text
