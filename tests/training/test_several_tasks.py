"""Two tasks in one run: each step is one task's, and leaves what is the other's alone, on any number of ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from t2x_core.assembly import batch_size, build_data, build_module, load_assembly
from t2x_core.errors import UserError
from t2x_core.recipe import to_plain
from t2x_core.training import fit, run_folder
from t2x_core.training.replay import replay
from t2x_core.types import Bucket
from tests.conftest import TINY, TINY_JOINT, TINY_MODEL
from tests.training.test_ranks import STEPS, Trace, assert_same, devices, traced

VIDEO = ("tasks.text-to-video.data.moving-shapes={size: 16, frames: 4, val_count: 6}", "tasks.text-to-video.weight=2")


class Untouched(Callback):
    """Looks after each step whether the parameters and the optimizer's state of the other tasks are what they were."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.moved: set[str] = set()
        self.moved_by: dict[str, set[str]] = {}

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
                self.moved_by.setdefault(batch.task, set()).add(name)

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
        seen = replay(tmp_path, step, images=1)
        assert seen.batch.task == task
        assert seen.batch.pixels.shape[2] == (4 if task == "text-to-video" else 1)


@pytest.mark.parametrize(("optimizer", "camera"), [("adamw", "pluecker"), ("muon", "pluecker"), ("adamw", "embedding")])
def test_what_only_views_have_moves_in_their_own_steps_alone(optimizer, camera, tmp_path):
    """Rays beside the latents, or an embedding of a view that is wider than that of a clip's rate."""
    small = (f"tasks.{task}.data.{data}.size=16" for task, data in TASKS.items())
    views = ("tasks.text-to-multiview.weight=2", f"tasks.text-to-multiview.conditioning.camera={camera}")
    settings = (f"optimizer.name={optimizer}", "optimizer.weight_decay=0.5", "trainer.max_steps=10", *NO_LOGGING)
    assembly = load_assembly("joint/quickstart", [*TINY_JOINT, *small, *views, *settings])
    module, untouched = build_module(assembly), Untouched()
    fit(assembly, module, build_data(assembly, module), tmp_path, extra=[untouched])
    assert {task: untouched.steps.count(task) for task in TASKS} == {
        **{"text-to-image": 4, "text-to-video": 2, "text-to-multiview": 4}
    }
    named = {name for name, _ in module.trainable()}
    own = {task: {name for name in named if name.startswith(f"adapters.{task}.")} for task in TASKS}
    views = {name for name in named if ".wider." in name}
    rate = {name for name in named if "frame_projection" in name} - views
    assert views
    assert rate
    everybodys = named - views - rate - own["text-to-image"] - own["text-to-video"] - own["text-to-multiview"]
    assert untouched.moved_by == {
        "text-to-image": everybodys | own["text-to-image"],
        "text-to-video": everybodys | rate | own["text-to-video"],
        "text-to-multiview": everybodys | views | own["text-to-multiview"] | (rate if camera == "embedding" else set()),
    }


TASKS = {"text-to-image": "shapes", "text-to-video": "moving-shapes", "text-to-multiview": "turntables"}
NO_LOGGING = ("logging.validate_every=99", "logging.sample_every=0", "logging.final_score_samples=0")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    found = traced(tmp_path_factory.mktemp("one"), *VIDEO)
    assert len(found) == STEPS * 4
    assert {key[0] for key, _ in found.values()} == {"text-to-image", "text-to-video"}
    return found


@pytest.mark.parametrize(("strategy", "count"), [("ddp", 2), ("fsdp2", 2), ("hsdp", 4)])
def test_ranks_train_on_the_same_samples_with_the_same_losses(strategy, count, one, tmp_path):
    assert_same(traced(tmp_path, *devices(count, strategy), *VIDEO), one)


def test_a_task_has_a_batch_of_its_own_or_steps_have_a_budget_of_tokens():
    assembly = load_assembly("joint/quickstart", [*TINY_MODEL, "backbone.patch_size=4"])
    size = batch_size(assembly.recipe, build_module(assembly))
    assert size("text-to-image", Bucket(1, 24, 24)) == size("text-to-video", Bucket(8, 24, 24)) == 4

    own = load_assembly(
        "joint/quickstart", [*TINY_MODEL, "backbone.patch_size=4", "tasks.text-to-video.global_batch=2"]
    )
    size = batch_size(own.recipe, build_module(own))
    assert [size("text-to-image", Bucket(1, 24, 24)), size("text-to-video", Bucket(8, 24, 24))] == [4, 2]

    budget = ["backbone.patch_size=4", "trainer.tokens_per_step=1152", "trainer.batch_multiple=2"]
    even = load_assembly("joint/quickstart", [*TINY_MODEL, *budget, "tasks.text-to-multiview.global_batch=6"])
    size = batch_size(even.recipe, build_module(even))
    assert size("text-to-image", Bucket(1, 24, 24)) == 32  # of 36 tokens
    assert size("text-to-video", Bucket(8, 24, 24)) == 4  # of 288
    assert size("text-to-video", Bucket(64, 24, 24)) == 2  # no less than one multiple
    assert size("text-to-multiview", Bucket(6, 24, 24)) == 6
    data = build_data(even, build_module(even))
    data.check()
    order = data.order(data.train_sources())
    for step in range(12):
        keys = order.keys(step)
        assert len(keys) == {"text-to-image": 32, "text-to-video": 4, "text-to-multiview": 6}[keys[0].task]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["trainer.devices=2", "tasks.text-to-video.global_batch=3"], "3 does not divide into devices 2"),
        (["trainer.devices=3", "trainer.tokens_per_step=1000"], "8 does not divide into devices 3"),
    ],
)
def test_batches_that_do_not_divide_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        load_assembly("joint/quickstart", settings)
