import pytest
import torch
from torch.utils import _pytree

from t2x_core.types import Batch, Conditioning, SampleKey


def batch():
    keys = tuple(SampleKey("a", 0, i, 0, i) for i in range(3))
    return Batch("a", ("x", "y", "z"), keys, torch.arange(3.0).view(3, 1, 1, 1, 1), {"n": torch.arange(3)})


def test_a_batch_moves_with_all_its_tensors_and_keeps_integers():
    moved = batch().to(torch.float64)
    assert moved.pixels.dtype == torch.float64
    assert moved.extra["n"].dtype == torch.int64
    assert moved.captions == ("x", "y", "z")
    assert moved.keys == batch().keys


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_a_batch_is_pinned_with_all_its_tensors():
    pinned = batch().pin_memory()
    assert pinned.pixels.is_pinned()
    assert pinned.extra["n"].is_pinned()
    assert pinned.keys == batch().keys


def test_selecting_takes_every_part_along():
    chosen = batch().select([2, 0])
    assert chosen.captions == ("z", "x")
    assert [key.id for key in chosen.keys] == [2, 0]
    assert chosen.pixels.flatten().tolist() == [2, 0]
    assert chosen.extra["n"].tolist() == [2, 0]


def test_fsdp2_finds_the_tensors_of_a_conditioning():
    text = torch.ones(1, 2, 3, requires_grad=True)
    leaves = _pytree.tree_leaves(Conditioning(text=text))
    assert any(leaf is text for leaf in leaves)


def test_a_conditioning_is_chosen_by_sample():
    one, other = (
        Conditioning(text=torch.full((2, 3, 4), x), text_mask=torch.full((2, 3), x > 0), vector=torch.full((2, 5), x))
        for x in (0.0, 1.0)
    )
    mixed = one.where(torch.tensor([False, True]), other)
    assert mixed.text.mean((1, 2)).tolist() == [0, 1]
    assert mixed.text_mask.any(1).tolist() == [False, True]
    assert mixed.vector.mean(1).tolist() == [0, 1]
    assert mixed.frames is None
    assert one.cat(other).vector.mean(1).tolist() == [0, 0, 1, 1]
