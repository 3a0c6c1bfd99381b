from __future__ import annotations

import pytest
import torch
from torch import nn

from t2x_core.assembly import build_module
from t2x_core.optim import GradientClipping


def with_gradients(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    torch.manual_seed(0)
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    for _, p in named:
        p.grad = torch.randn_like(p)
    return named


@pytest.mark.parametrize("limit", [1.0, 1e6, None])
def test_it_clips_as_torch_does(tiny, limit):
    named = with_gradients(build_module(tiny))
    before = [p.grad.clone() for _, p in named]
    squares = GradientClipping(named, limit)()
    clipped = [p.grad.clone() for _, p in named]

    for (_, p), gradient in zip(named, before, strict=True):
        p.grad = gradient
    norm = nn.utils.clip_grad_norm_([p for _, p in named], float("inf") if limit is None else limit)
    torch.testing.assert_close(squares.sum().sqrt(), norm)
    for (_, p), gradient in zip(named, clipped, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_the_norm_of_a_part_is_that_of_its_parameters(tiny):
    named = with_gradients(build_module(tiny))
    clipping = GradientClipping(named, None)
    squares = dict(zip(clipping.parts, clipping().tolist(), strict=True))
    mlps = sum(p.grad.square().sum().item() for name, p in named if ".blocks." in name and ".mlp." in name)
    assert squares["backbone.mlp"] == pytest.approx(mlps, rel=1e-5)
    words = sum(p.grad.square().sum().item() for name, p in named if name.startswith("text_encoder."))
    assert squares["text_encoder"] == pytest.approx(words, rel=1e-5)
    assert {"backbone.attention", "backbone.head", "adapters.text-to-image"} < set(squares)
    assert not any("0" in part for part in squares)


def test_parameters_without_a_gradient_are_left_alone(tiny):
    named = with_gradients(build_module(tiny))
    for name, p in named:
        if name.startswith("adapters."):
            p.grad = None
    clipping = GradientClipping(named, 1.0)
    squares = dict(zip(clipping.parts, clipping().tolist(), strict=True))
    assert squares["adapters.text-to-image"] == 0
    norm = torch.stack([p.grad.square().sum() for _, p in named if p.grad is not None]).sum().sqrt()
    torch.testing.assert_close(norm, torch.tensor(1.0), rtol=1e-4, atol=0)
