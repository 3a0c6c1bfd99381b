"""Two tasks in one run: each step is one task's, and leaves what is the other's alone, on any number of ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.recipe import to_plain
from t2x_core.training import fit, run_folder
from t2x_core.training.replay import replay
from tests.conftest import TINY
from tests.training.test_ranks import STEPS, Trace, assert_same, devices, traced

VIDEO = ("tasks.text-to-video.data.shapes={size: 16, frames: 4, val_count: 6}", "tasks.text-to-video.weight=2")


class Untouched(Callback):
    """Looks after each step whether the parameters and the optimizer's state of the other tasks are what they were."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.moved: set[str] = set()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.before = self.held(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps.append(batch.task)
        for name, tensors in self.held(trainer, pl_module).items():
            same = len(tensors) == len(self.before[name]) and all(map(torch.equal, tensors, self.before[name]))
            if name.startswith("adapters.") and not name.startswith(f"adapters.{batch.task}."):
                assert same, (name, batch.task)
            if not same:
                self.moved.add(name.split(".")[1])

    def held(self, trainer: Any, module: Any) -> dict[str, list[torch.Tensor]]:
        state = trainer.optimizers[0].state
        return {
            name: [p.detach().clone(), *(v.clone() for v in state.get(p, {}).values() if torch.is_tensor(v))]
            for name, p in module.trainable()
        }


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "muon"])
def test_a_step_leaves_alone_what_the_other_task_alone_uses(optimizer, tmp_path):
    settings = (f"optimizer.name={optimizer}", "optimizer.weight_decay=0.5", "trainer.max_steps=12")
    assembly = load_assembly("quickstart", [*TINY, *VIDEO, *settings])
    run_folder.write_run(tmp_path, to_plain(assembly.recipe))
    module, untouched = build_module(assembly), Untouched()
    fit(assembly, module, build_data(assembly, module), tmp_path, extra=[untouched])
    assert 7 <= untouched.steps.count("text-to-video") <= 9  # of 12, at twice the weight
    assert {"text-to-image", "text-to-video", "blocks"} <= untouched.moved

    for step, task in enumerate(untouched.steps[:4], start=1):
        seen = replay(tmp_path, step, pictures=1)
        assert seen.batch.task == task
        assert seen.batch.pixels.shape[2] == (4 if task == "text-to-video" else 1)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    found = traced(tmp_path_factory.mktemp("one"), *VIDEO)
    assert len(found) == STEPS * 4
    assert {key[0] for key, _ in found.values()} == {"text-to-image", "text-to-video"}
    return found


@pytest.mark.parametrize(("strategy", "count"), [("ddp", 2), ("fsdp2", 2), ("hsdp", 4)])
def test_ranks_train_on_the_same_samples_with_the_same_losses(strategy, count, one, tmp_path):
    assert_same(traced(tmp_path, *devices(count, strategy), *VIDEO), one)
