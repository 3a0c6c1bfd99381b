"""Projections that tasks of different widths share: one Linear cut into bands, of which a step moves those it uses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from t2x_core.backbone import PTDiT, PTDiTConfig
from t2x_core.backbone.banded import BandedLinear
from t2x_core.backbone.linear import linear
from t2x_core.optim import build_optimizer
from t2x_core.recipe import OptimizerConfig
from t2x_core.types import Conditioning, ConditioningDims

WIDTHS = [4, 7, 12]


def whole(layer: BandedLinear) -> Tensor:
    return torch.cat([layer.weight, *(part.weight for part in layer.wider)], 1)


def test_the_bands_begin_as_one_weight_for_all_channels() -> None:
    for init in ("xavier", "time", "zero"):
        torch.manual_seed(3)
        joint = linear(12, 8, init)
        after = torch.rand(1)
        torch.manual_seed(3)
        layer = BandedLinear(WIDTHS, 8, init)
        assert torch.equal(torch.rand(1), after)  # no other number is drawn, so the rest of a network begins as before
        assert torch.equal(whole(layer), joint.weight)
        assert [tuple(p.shape) for p in layer.parameters()] == [(8, 4), (8,), (8, 3), (8, 5)]


@pytest.mark.parametrize("width", [1, 4, 5, 7, 11, 12])
def test_it_is_a_linear_of_the_first_channels(width: int) -> None:
    layer, x = BandedLinear(WIDTHS, 8), torch.randn(2, 3, width)
    nn.init.normal_(layer.bias)
    torch.testing.assert_close(layer(x), x @ whole(layer)[:, :width].T + layer.bias)
    layer(x).sum().backward()
    used = [True, width > 4, width > 7]
    assert [part.weight.grad is not None for part in (layer, *layer.wider)] == used


def test_one_width_is_a_plain_linear() -> None:
    layer = BandedLinear([12], 8)
    assert set(layer.state_dict()) == {"weight", "bias"}


def conditioning(dims: ConditioningDims) -> Conditioning:
    def made(size: int, *shape: int) -> Tensor | None:
        return torch.randn(shape) if size else None

    return Conditioning(
        text=made(dims.text, 2, 5, dims.text),
        text_mask=torch.ones(2, 5, dtype=torch.bool) if dims.text else None,
        vector=made(dims.vector, 2, dims.vector),
        frames=made(dims.frames, 2, 3, dims.frames),
        concat=made(dims.concat, 2, dims.concat, 3, 4, 4),
    )


NARROW = ConditioningDims(text=7, vector=3, frames=2, concat=1)
WIDE = ConditioningDims(text=12, vector=5, frames=3, concat=3)
PLAIN = ConditioningDims(text=12)
VECTOR = ConditioningDims(vector=4)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "lion"])
@pytest.mark.parametrize("other", [NARROW, PLAIN, VECTOR])
def test_what_a_step_does_not_use_stays_to_the_last_bit(other: ConditioningDims, optimizer: str) -> None:
    """A task with all parts trains until the optimizer has momentum; then another one does, which lacks some."""
    torch.manual_seed(0)
    model = PTDiT(PTDiTConfig(4, 32, 2, 2, window=(1, 2, 2), dims=WIDE, shared_by=(WIDE, NARROW, PLAIN, VECTOR)))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)  # nothing at zero, so every channel has a gradient
    named = [(f"backbone.{name}", p) for name, p in model.named_parameters()]
    trained = build_optimizer(named, OptimizerConfig(name=optimizer, lr=1e-2, weight_decay=0.5))

    def step(dims: ConditioningDims) -> None:
        trained.zero_grad()
        model(torch.randn(2, 4, 3, 4, 4), torch.rand(2), conditioning(dims)).square().mean().backward()
        trained.step()

    def columns() -> dict[str, Tensor]:
        """What each column of each weight is."""
        return {name: p.detach().clone() for name, p in named}

    for _ in range(3):
        step(WIDE)
    start = columns()
    for _ in range(3):
        step(other)
    end = columns()
    same = {name for name in start if torch.equal(start[name], end[name])}
    assert same == expected(other, set(start))
    step(WIDE)
    assert not [name for name, value in columns().items() if torch.equal(value, end[name])]


def expected(dims: ConditioningDims, names: set[str]) -> set[str]:
    """Names of what a task with parts of these sizes has no use for, from the sizes alone."""
    found: set[str] = set()
    layers = {
        "text": ("text_projection.0", [7, 12]),
        "vector": ("vector_projection", [3, 4, 5]),
        "frames": ("frame_projection", [2, 3]),
        "concat": ("patch_embedding", [0, 1, 3]),
    }
    for part, (layer, widths) in layers.items():
        size = getattr(dims, part)
        starts = widths[:-1]
        found |= {f"backbone.{layer}.wider.{i}.weight" for i, start in enumerate(starts) if size <= start}
        if not size and part != "concat":
            found |= {name for name in names if name.startswith(f"backbone.{layer.split('.')[0]}.")}
    if not dims.text:
        found |= {name for name in names if ".text_attention." in name}
    return found


def partly_used(parameter: nn.Parameter) -> bool:
    """Whether whole rows or columns of a gradient are zero."""
    grad: Any = parameter.grad
    return grad is not None and grad.ndim == 2 and bool((~grad.any(0)).any() or (~grad.any(1)).any())


@pytest.mark.parametrize("dims", [WIDE, NARROW, PLAIN, VECTOR])
@pytest.mark.parametrize("attention", ["proxy", "fused", "dense"])
def test_no_weight_is_used_in_part(attention: str, dims: ConditioningDims) -> None:
    torch.manual_seed(0)
    shared = (WIDE, NARROW, PLAIN, VECTOR)
    model = PTDiT(PTDiTConfig(4, 32, 2, 2, attention=attention, window=(1, 2, 2), dims=WIDE, shared_by=shared))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    model(torch.randn(2, 4, 3, 4, 4), torch.rand(2), conditioning(dims)).square().mean().backward()
    assert not [name for name, parameter in model.named_parameters() if partly_used(parameter)]
