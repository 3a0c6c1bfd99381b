"""Losses as plugins bring them: modules with parameters, terms with weights, tokens of blocks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from t2x_core.assembly import build_module
from t2x_core.losses import TaskLoss
from tests.test_module import batch_of

NAME = "text-to-image"


class Scaled(nn.Module):
    """Has a parameter, and a buffer that is stored."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("seen", torch.tensor(7.0))

    def forward(self, velocity, noised, batch):
        return self.scale * (velocity - noised.velocity).square().flatten(1).mean(1)


def test_the_parameter_of_a_loss_is_trained_and_stored_with_its_buffers(tiny):
    module = build_module(tiny)
    module.losses[NAME] = TaskLoss(Scaled())
    out = module.training_step(batch_of(tiny, module, range(4)), 0)
    out["loss"].backward()
    name = f"losses.{NAME}.loss.scale"
    assert dict(module.trainable())[name].grad.item() == pytest.approx(out["loss"].item() / 2)
    optimized = {id(p) for group in module.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    assert id(module.losses[NAME].loss.scale) in optimized
    saved = {key: tensor.detach().clone() for key, tensor in module.stored().items()}
    assert saved[f"losses.{NAME}.loss.seen"] == 7
    other = build_module(tiny)
    other.losses[NAME] = TaskLoss(Scaled())
    nn.init.zeros_(other.losses[NAME].loss.scale)
    other.losses[NAME].loss.seen.zero_()
    other.load_state_dict(saved)
    assert (other.losses[NAME].loss.scale.item(), other.losses[NAME].loss.seen.item()) == (2, 7)


def test_a_loss_gets_the_tokens_of_each_block_that_it_names(tiny):
    module = build_module(tiny)
    found = {}

    def loss(velocity, noised, batch, hidden):
        found.update(hidden)
        return velocity.flatten(1).mean(1)

    loss.capture = {0, 1}
    module.losses[NAME] = TaskLoss(loss)
    batch = batch_of(tiny, module, range(2))
    module.training_step(batch, 0)
    patch = module.backbone.config.patch_size
    tokens = (batch.pixels.shape[-1] // patch) * (batch.pixels.shape[-2] // patch)
    assert {k: tuple(v.shape) for k, v in found.items()} == dict.fromkeys((0, 1), (2, tokens, 32))
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(()), r"the loss is \(\), not one value for each of 4 samples"),
        (torch.zeros(4, dtype=torch.int64), r"the loss is \(4,\) of int64"),
        (1.0, r"the loss is float, not a tensor \(4,\)"),
        ({}, "the loss returns no value at all"),
        ({"a": torch.zeros(3)}, r"loss a is \(3,\), not one value"),
    ],
)
def test_what_is_no_loss_names_plugin_task_method_and_samples(tiny, value, message):
    module = build_module(tiny)
    module.losses[NAME] = TaskLoss(lambda velocity, noised, batch: value)
    with pytest.raises(Exception, match=message) as caught:
        module.training_step(batch_of(tiny, module, range(4)), 0)
    text = str(caught.value)
    assert 'plugin "text-to-image" of t2x' in text
    assert "loss failed on samples 10, 11, 12, 13 of bucket 0 of text-to-image: ValueError: " in text
