"""A narrow linear layer between a patch and its token."""

from __future__ import annotations

import pytest
import torch

from t2x_core.assembly import build_module, load_assembly
from t2x_core.backbone import PTDiT, PTDiTConfig
from t2x_core.types import Conditioning
from tests.conftest import TINY


def build(bottleneck: int, patch: int = 4) -> PTDiT:
    torch.manual_seed(0)
    config = PTDiTConfig(in_channels=3, width=32, depth=1, heads=2, patch_size=patch, bottleneck=bottleneck)
    return PTDiT(config)


def test_tokens_are_those_of_a_plain_formula() -> None:
    """Two convolutions, as the paper's code has it: one with the stride of a patch to few channels, one of 1 × 1."""
    model, x = build(5), torch.randn(2, 3, 1, 8, 12)
    first, second = model.patch_embedding  # type: ignore[misc]
    torch.nn.init.normal_(second.bias)
    narrow = torch.nn.functional.conv2d(x[:, :, 0], first.weight.view(5, 3, 4, 4), first.bias, stride=4)  # (B, 5, h, w)
    expected = torch.nn.functional.conv2d(narrow, second.weight[:, :, None, None], second.bias)
    found = model.patch_embedding(model._patchify(x))  # (B, N, D)
    torch.testing.assert_close(found, expected.flatten(2).transpose(1, 2))


def test_gradients_reach_both_layers_and_parameters_are_spared() -> None:
    model = build(5, patch=16)
    torch.nn.init.normal_(model.head.linear.weight)
    model(torch.randn(1, 3, 1, 32, 32), torch.tensor([0.5]), Conditioning()).square().mean().backward()
    layers = list(model.patch_embedding)  # type: ignore[call-overload]
    assert all(layer.weight.grad.abs().max() > 0 for layer in layers)
    patch = 3 * 16 * 16
    assert [layer.weight.numel() for layer in layers] == [5 * patch, 32 * 5]
    plain = build(0, patch=16).patch_embedding.weight
    assert isinstance(plain, torch.Tensor)
    assert plain.numel() == 32 * patch


def test_it_is_a_setting() -> None:
    module = build_module(load_assembly("quickstart", [*TINY, "backbone.bottleneck=8"]))
    assert module.backbone.config.bottleneck == 8
    with pytest.raises(ValueError, match="has no bottleneck"):
        PTDiTConfig(in_channels=4, width=32, depth=1, heads=2, bottleneck=4, released=True)
