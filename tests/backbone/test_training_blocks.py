"""Compiled and checkpointed blocks compute what plain ones do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from t2x_core.backbone import PTDiT
from t2x_core.backbone.training_blocks import set_blocks
from tests.backbone.test_pt_dit import ATTENTIONS, build, inputs


def gradients(model: PTDiT, *shape: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss, and name → gradient, of a batch."""
    model.zero_grad()
    loss = model(*inputs(2, *shape)).square().mean()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [True, "selective"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_checkpointed_blocks_have_the_same_gradients_to_the_last_bit(attention, checkpointing):
    model = build(attention, qk_norm=True)
    loss, expected = gradients(model)
    calls = []
    for block in model.blocks:
        block.mlp.register_forward_hook(lambda *_: calls.append(1))
    set_blocks(model, checkpointing=checkpointing)
    again, found = gradients(model)
    assert torch.equal(again, loss)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name
    assert len(calls) == 2 * len(model.blocks)
    with torch.no_grad():
        model(*inputs())
    assert len(calls) == 3 * len(model.blocks)


class Products(TorchDispatchMode):
    """Counts the products of linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten.addmm.default, torch.ops.aten.mm.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_selective_checkpointing_does_not_repeat_linear_layers(attention):
    counts = {}
    for checkpointing in (False, True, "selective"):
        model = build(attention)
        set_blocks(model, checkpointing=checkpointing)
        with Products() as products:
            gradients(model)
        counts[checkpointing] = products.count
    assert counts["selective"] == counts[False] < counts[True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attention", "checkpointing"), [("proxy", "selective"), ("fused", "selective"), ("dense", True)]
)
def test_compiled_blocks_train_alike_on_each_shape_with_one_compilation_for_all_blocks(attention, checkpointing):
    shapes = [(1, 8, 8), (3, 4, 6)]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain, model = build(attention, depth=4), build(attention, depth=4)
    names = list(model.state_dict())
    set_blocks(model, checkpointing=checkpointing, shapes=len(shapes))
    optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in (plain, model)]
    for step in range(4):
        losses = []
        for one, optimizer in zip((plain, model), optimizers, strict=True):
            loss, _ = gradients(one, *shapes[step % 2])
            optimizer.step()
            losses.append(loss.item())
        assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert list(model.state_dict()) == names
    kinds = 1 if attention == "proxy" else 2  # every other block shifts its windows
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == kinds * len(shapes)
    with torch.inference_mode():
        model(*inputs(1, 5, 6, 8))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == kinds * len(shapes)


def test_more_shapes_than_torch_would_compile_are_compiled():
    shapes = [(1, 4, 4), (1, 4, 6), (1, 4, 8)]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = build("dense", depth=1)
    with torch._dynamo.config.patch(recompile_limit=2):
        set_blocks(model, shapes=len(shapes))
        for shape in shapes:
            gradients(model, *shape)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == len(shapes)
