import pytest
import torch
from safetensors.torch import save_file

from t2x_core.assembly import build_module
from t2x_core.recipe import EMAConfig
from t2x_core.training.ema import EMA
from t2x_core.training.steps import Step
from t2x_core.weight_files import stored_tensors


@pytest.fixture
def module(tiny):
    return build_module(tiny)


def step(ema, module, number):
    """An optimizer step that adds one to every weight."""
    with torch.no_grad():
        for _, p in module.trainable():
            p += 1
    ema.on_optimizer_step(None, module, Step(number, [], ()))


def test_the_average_follows_its_definition(module):
    """w̄ₙ = dⁿ·w₀ + (1 - d)·Σ dⁿ⁻ⁱ·wᵢ; with w₀ + i for wᵢ that is w₀ + (1 - d)·Σ i·dⁿ⁻ⁱ, at any d but 1/2 lopsided."""
    decay = 0.9
    ema = EMA(EMAConfig(decay=decay, warmup=False))
    ema.on_train_start(None, module)
    first = {name: p.detach().clone() for name, p in module.trainable()}
    for number in (1, 2, 3):
        step(ema, module, number)
    moved = (1 - decay) * (1 * decay**2 + 2 * decay + 3)  # 0.561; with the weights exchanged 2.439
    assert set(ema.weights) == set(first)
    for name, weight in ema.weights.items():
        torch.testing.assert_close(weight - first[name], torch.full_like(weight, moved), atol=1e-5, rtol=1e-5)


def test_early_averages_are_those_of_the_warm_up(module):
    """Decays 1/10, 2/11, 3/12 …: after the first update nine tenths are the new weights."""
    ema = EMA(EMAConfig(decay=0.999, warmup=True))
    ema.on_train_start(None, module)
    first = {name: p.detach().clone() for name, p in module.trainable()}
    expected = 0.0
    for number in (1, 2, 3):
        decay = number / (9 + number)
        step(ema, module, number)
        expected = decay * expected + (1 - decay) * number
        for name, weight in ema.weights.items():
            torch.testing.assert_close(weight - first[name], torch.full_like(weight, expected), atol=1e-5, rtol=1e-5)


def test_warm_up_forgets_the_first_weights(module):
    ema = EMA(EMAConfig(decay=0.999, warmup=True))
    ema.on_train_start(None, module)
    decays = []
    for number in (1, 2, 3):
        decays.append(ema.decay())
        step(ema, module, number)
    assert decays == [1 / 10, 2 / 11, 3 / 12]
    ema.updates = 10**6
    assert ema.decay() == 0.999


def test_the_module_has_its_own_weights_back_to_the_last_bit(module):
    ema = EMA(EMAConfig())
    ema.on_train_start(None, module)
    step(ema, module, 1)
    before = {name: p.detach().clone() for name, p in module.trainable()}
    average = {name: w.clone() for name, w in ema.weights.items()}
    with ema.applied(module):
        for name, p in module.trainable():
            assert torch.equal(p, average[name])
    for name, p in module.trainable():
        assert torch.equal(p, before[name])
        assert torch.equal(ema.weights[name], average[name])


@pytest.mark.parametrize("stored", [False, True], ids=["tensors", "files"])
def test_a_checkpoint_brings_the_average_and_its_count_back(stored, module, tmp_path):
    ema = EMA(EMAConfig(decay=0.9, warmup=True))
    ema.on_train_start(None, module)
    step(ema, module, 1)
    checkpoint: dict = {}
    ema.on_save_checkpoint(None, module, checkpoint)
    if stored:
        save_file({name: weight.clone() for name, weight in ema.weights.items()}, tmp_path / "ema.safetensors")
        checkpoint = {"ema": {**checkpoint["ema"], "weights": stored_tensors(tmp_path / "ema.safetensors")[0]}}
    again = EMA(EMAConfig(decay=0.9, warmup=True))
    again.on_load_checkpoint(None, module, checkpoint)
    again.on_train_start(None, module)
    assert again.updates == 1
    for name, p in module.trainable():
        assert torch.equal(again.weights[name], ema.weights[name])
        assert not torch.equal(again.weights[name], p)
    step(again, module, 2)
    step(ema, module, 3)
    assert again.updates == ema.updates == 2
