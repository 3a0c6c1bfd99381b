"""A LoRA on several ranks, and stopped half-way."""

from __future__ import annotations

import shutil

import pytest

from t2x_core.checkpoint import checkpoints_of, materialize, read_checkpoint, step_of
from tests.training.test_first_weights import trained
from tests.training.test_ranks import assert_same, devices, traced

pytestmark = pytest.mark.slow


def settings(kind: str, base: object) -> list[str]:
    more = {"lora": [], "dora": ["backbone.lora.dora=true"], "lokr": ["backbone.lora.kind=lokr"]}[kind]
    return [f"backbone.weights={base}", "backbone.lora.rank=4", "trainer.max_steps=8", *more]


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr"])
def test_ranks_train_alike_and_a_run_goes_on_to_the_last_bit(kind, tmp_path):
    base = trained(tmp_path / "base")
    own = settings(kind, base)
    one = traced(tmp_path / "one", *own, "logging.checkpoint_every=4", "logging.keep_checkpoints=9")
    for strategy in ("ddp", "fsdp2"):
        assert_same(traced(tmp_path / strategy, *own, *devices(2, strategy)), one)
    names = [
        materialize(read_checkpoint(checkpoints_of(tmp_path / s / "run")[-1])["state_dict"]) for s in ("one", "fsdp2")
    ]
    assert names[0].keys() == names[1].keys()

    (tmp_path / "half").mkdir()
    shutil.copytree(tmp_path / "one/run", tmp_path / "half/run")
    for later in checkpoints_of(tmp_path / "half/run"):
        if step_of(later) > 4:
            shutil.rmtree(later)
    rest = traced(tmp_path / "half", *own)
    assert {step for step, _ in rest} == {4, 5, 6, 7}
    for where, found in rest.items():
        assert found == one[where]
