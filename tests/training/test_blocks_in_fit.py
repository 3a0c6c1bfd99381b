"""`trainer.compile` and `trainer.gradient_checkpointing` change how a run computes, not what."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.callbacks import LambdaCallback

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.checkpoint import materialize, open_checkpoint
from t2x_core.training.fit import fit
from tests.conftest import TINY


def train(folder: Path, *settings: str) -> tuple[list[float], dict]:
    """Loss of each step, and the weights that were saved."""
    assembly = load_assembly("quickstart", [*TINY, "trainer.max_steps=4", *settings])
    module, losses = build_module(assembly), []
    record = LambdaCallback(on_train_batch_end=lambda t, m, outputs, *_: losses.append(outputs["loss"].item()))
    fit(assembly, module, build_data(assembly, module), folder, extra=[record])
    return losses, materialize(open_checkpoint(folder, "last")[1]["state_dict"])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("checkpointing", ["true", "selective"])
def test_a_checkpointed_run_is_the_same_to_the_last_bit(plain, tmp_path, checkpointing):
    losses, weights = train(tmp_path, f"trainer.gradient_checkpointing={checkpointing}")
    assert losses == plain[0]
    for name, weight in plain[1].items():
        assert weight.equal(weights[name]), name


def test_a_compiled_run_has_the_same_losses_and_names(plain, tmp_path):
    losses, weights = train(tmp_path, "trainer.compile=true", "trainer.gradient_checkpointing=true")
    assert losses == pytest.approx(plain[0], abs=1e-5)
    assert weights.keys() == plain[1].keys()
