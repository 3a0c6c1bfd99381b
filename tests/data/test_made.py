"""Data that a function makes."""

from __future__ import annotations

import pytest
import torch

from t2x_core.data import MadeData
from t2x_core.types import SampleKey


def make(split: str, number: int) -> tuple[torch.Tensor, str]:
    return torch.full((3, 2, 4, 6), number / 10), f"{split} {number}"


def test_samples_are_what_the_function_makes() -> None:
    data = MadeData(make, count=7, held_out=3)
    source = data.train_source()
    bucket = source.buckets()[0]
    assert (bucket.frames, bucket.height, bucket.width, bucket.count) == (2, 4, 6, 7)
    sample = source[SampleKey("", 0, 5, 0, 0)]
    assert (sample.caption, float(sample.pixels.mean())) == ("train 5", pytest.approx(0.5))
    assert (len(data.val_source()), data.val_source()[SampleKey("", 0, 2, 0, 0)].caption) == (3, "val 2")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (torch.zeros(3, 1, 4, 4), r"must return \(pixels, caption\), .* not Tensor"),
        ((torch.zeros(3, 1, 4, 4),), r"must return \(pixels, caption\)"),
        (None, "not NoneType"),
        ((torch.zeros(3, 4, 4), "x"), r"must be \(3, F, H, W\), not \(3, 4, 4\)"),
        ((torch.zeros(1, 1, 4, 4), "x"), r"must be \(3, F, H, W\), not \(1, 1, 4, 4\)"),
    ],
)
def test_what_cannot_be_a_sample_is_said(made: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        MadeData(lambda split, number: made).train_source()
