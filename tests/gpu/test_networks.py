"""Networks on a GPU against float64 on a CPU, forward and backward; keyed noise; no synchronisation in a step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from t2x_core import keyed
from t2x_core.assembly import load_assembly
from t2x_core.backbone import PTDiT
from t2x_core.backbone.training_blocks import set_blocks
from t2x_core.bench.fit import BareLoop
from t2x_core.types import Conditioning
from tests.backbone.test_pt_dit import ATTENTIONS, build, inputs
from tests.conftest import TINY
from tests.gpu.device import ACCELERATOR, DEVICE, cuda_only, marks

pytestmark = marks
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 6e-2}
"""Largest relative error (norm of the difference over the norm) of the output and of all gradients together."""


def results(
    model: PTDiT, device: str, dtype: torch.dtype, rounded: torch.dtype, autocast: bool = False
) -> tuple[Tensor, Tensor]:
    """Output, and all gradients in one row. Weights and inputs are rounded first, so only the arithmetic differs."""
    model = model.to(rounded).to(device, dtype)

    def there(x: Tensor) -> Tensor:
        return x.to(rounded).to(device, dtype) if x.is_floating_point() else x.to(device)

    x, t, c = inputs(2, 1, 16, 16)
    c = Conditioning(*(there(part) for part in (c.text, c.text_mask, c.vector, c.frames, c.concat)))
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        out = model(there(x), there(t), c)
    out.double().square().mean().backward()
    gradients = [p.grad.double().flatten().cpu() for _, p in sorted(model.named_parameters()) if p.grad is not None]
    return out.detach().double().cpu(), torch.cat(gradients)


def check(model: PTDiT, exact: PTDiT, dtype: torch.dtype, autocast: bool = False) -> None:
    mine = results(model, DEVICE, dtype, dtype, autocast)
    for found, expected in zip(mine, results(exact, "cpu", torch.float64, dtype), strict=True):
        error = ((found - expected).norm() / expected.norm()).item()
        assert error < TOLERANCE[torch.bfloat16 if autocast else dtype]


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("position", ["sincos", "rope"])
@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [(torch.float32, False), (torch.float32, True), (torch.bfloat16, False)],
    ids=["32-true", "bf16-mixed", "bf16-true"],
)
def test_each_attention_and_precision(attention: str, position: str, dtype: torch.dtype, autocast: bool) -> None:
    model = build(attention, qk_norm=True, position=position)
    check(model, copy.deepcopy(model), dtype, autocast)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("checkpointing", [False, True, "selective"])
@pytest.mark.parametrize("shapes", [0, pytest.param(1, marks=cuda_only)], ids=["plain", "compiled"])
def test_checkpointed_and_compiled_blocks(attention: str, checkpointing: bool, shapes: int) -> None:
    """Compiled, `fused` is FlexAttention on a GPU."""
    model = build(attention, qk_norm=True)
    exact = copy.deepcopy(model)
    set_blocks(model, checkpointing=checkpointing, shapes=shapes)
    check(model, exact, torch.float32)


def test_keyed_numbers_are_those_of_the_cpu() -> None:
    keys = [keyed.key(3, "noise", i) for i in range(5)]
    assert torch.equal(keyed.normal(keys, (3, 7, 11), DEVICE).cpu(), keyed.normal(keys, (3, 7, 11)))
    assert torch.equal(keyed.uniform(keys, 1001, DEVICE).cpu(), keyed.uniform(keys, 1001))


def test_training_steps_do_not_wait_for_the_device() -> None:
    """After two steps that warm up: forward, backward, clipping, optimizer and average of batches on the device."""
    settings = [*TINY, ACCELERATOR, "trainer.precision=bf16-mixed", "trainer.max_steps=40"]
    loop = BareLoop(load_assembly("quickstart", settings), in_memory=True)
    loop.start(torch.device(DEVICE), "bf16-mixed")
    loop.steps(2)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
    try:
        loop.steps(5)
    finally:
        if DEVICE == "cuda":
            torch.cuda.set_sync_debug_mode("default")
