"""The checks of a task."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from t2x_core.assembly import Assembly, build_data, build_module, sample_bucket
from t2x_core.checkpoint import checkpoint_of, materialize, read_checkpoint
from t2x_core.data.repeat import first_difference
from t2x_core.generation import T2XPipeline
from t2x_core.recipe import to_plain
from t2x_core.rendering import check_rendered
from t2x_core.sampling import sample
from t2x_core.testing.task_data import scatter
from t2x_core.testing.task_model import TaskModelTests
from t2x_core.training import fit, run_folder
from t2x_core.types import Batch

COMPANIONS = {"text-to-image": "shapes", "text-to-video": "moving-shapes"}
"""One of these stands beside the task in a recipe of two: its name, and that of its data source."""


class TaskTests(TaskModelTests):
    """Checks of a task.

    Example:
        class TestStripes(TaskTests):
            plugin = "stripes"
            settings = {"size": 16}
    """

    def test_it_trains(self) -> None:
        """training: four steps, with validation, samples and a checkpoint"""
        folder = self._trained()
        weights = [_content(folder, step)["state_dict"] for step in (2, 4)]
        if all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0]):
            raise self.rig.refuse("two steps change no weight", "look at its loss", type(self.rig.task).loss)

    def test_it_resumes_bit_for_bit(self) -> None:
        """training: after a checkpoint it goes on to the last bit"""
        folder, other = self._trained(), self.rig.folder / "resumed"
        shutil.rmtree(other, ignore_errors=True)
        other.mkdir()
        for name in (run_folder.RECIPE_FILE, run_folder.ENVIRONMENT_FILE):
            shutil.copy(folder / name, other / name)
        (other / run_folder.SAMPLES).mkdir()
        start = checkpoint_of(other, 2)
        shutil.copytree(checkpoint_of(folder, 2), start)
        scatter()
        self._fit(other, resume=True)
        expected, found = (_content(run, 4) for run in (folder, other))
        for part in ("state_dict", "ema", "optimizer_states"):
            if (where := first_difference(expected[part], found[part])) is not None:
                hint = "draw what is random by keyed.generator; keep what changes while training in persistent buffers"
                raise self.rig.refuse(f"a resumed run ends with another {part}, in {where}", hint, type(self.rig.task))

    def test_it_samples_and_renders(self) -> None:
        """sampling: conditions of typed prompts, a sample from them, render and score"""
        rig, task, module = self.rig, self.rig.task, self.rig.module
        held_out = rig.data.val_conditions(self.rig.task.name, 2)
        with rig.calls(rig.path, "conditions"):
            conditions = task.conditions(held_out.captions)
        if not isinstance(conditions, Batch) or len(conditions) != 2 or conditions.pixels is not None:
            hint = "return Batch(self.name, tuple(prompts), …), without pixels"
            raise rig.refuse(
                "conditions must return a Batch with one entry for each prompt", hint, type(task).conditions
            )
        if conditions.task != task.name:
            hint = f"write self.name: here it is {task.name}"
            raise rig.refuse(f'conditions returns a batch of the task "{conditions.task}"', hint, type(task).conditions)
        pixels = self._sampled(rig.assembled, held_out)
        with rig.calls(rig.path, "render", held_out, code=type(task).render):
            check_rendered(task.render(pixels, held_out))
        self._check_scores(pixels, held_out)
        for name in task.encoded_controls:
            if name not in conditions.controls and name not in task.config.inputs():
                hint = f'return {{"{name}": "what it is"}} from inputs() of its settings, or make it in conditions'
                raise rig.refuse(f"samples need {name}, which nobody can give", hint, type(task))
        inputs = {name: list(held_out.controls[name]) for name in task.config.inputs() if name in held_out.controls}
        pipeline = T2XPipeline(rig.assembled, module)
        check_rendered(pipeline.render(pipeline(list(held_out.captions), seeds=[1, 2], inputs=inputs)))
        module.train()

    def test_it_goes_with_another_task(self) -> None:
        """beside another task in one recipe: both train, each with its own conditioning"""
        name = next(name for name in COMPANIONS if name != self.rig.task.name)
        beside = {"data": {COMPANIONS[name]: {"size": 16 if self.rig.patch_size <= 16 else 64}}}
        assembly = self.rig.assembly(tasks={name: beside})
        module = build_module(assembly)
        data = build_data(assembly, module)
        data.check()
        for task in assembly.tasks:
            module.zero_grad(set_to_none=True)
            loss: Tensor = module.training_step(data.example(task, 0), 0)["loss"]
            loss.backward()
            assert loss.isfinite()
            for other in set(assembly.tasks) - {task}:
                if any(p.grad is not None for p in module.adapters[other].parameters()):
                    raise self.rig.refuse(
                        f"a step of {task} gives the adapter of {other} a gradient",
                        "make parameters in the adapter's __init__, none that several adapters share",
                        type(module.adapters[self.rig.task.name]),
                    )

    def _sampled(self, assembly: Assembly, conditions: Batch) -> Tensor:
        module = self.rig.module
        bucket = sample_bucket(assembly, module, self.rig.task.name)
        return sample(module, conditions, [0, 1], bucket, assembly.recipe.diffusion.sampler, len(conditions))

    def _check_scores(self, pixels: Tensor, conditions: Batch) -> None:
        rig, task = self.rig, self.rig.task
        with rig.calls(rig.path, "score", conditions, code=type(task).score):
            scores = task.score(pixels, conditions)
        for name, values in (scores or {}).items():
            if not isinstance(values, Tensor) or values.shape != (len(conditions),) or values.dtype == torch.bool:
                hint = "return name → a floating-point tensor (B,), NaN where it does not apply"
                raise rig.refuse(f"score {name} is not one number for each sample", hint, type(task).score)
        with rig.calls(rig.path, "metrics", conditions, code=type(task).metrics):
            metric = task.metrics()
            if metric is not None:
                metric.update(pixels, conditions)
                _ = {name: float(value) for name, value in metric.compute().items()}

    def _trained(self) -> Path:
        """The folder of a run of four steps, made once."""
        folder = self.rig.folder / "whole"
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            run_folder.write_run(folder, to_plain(self.rig.assembled.recipe))
            self._fit(folder, resume=False)
            (folder / "done").touch()
        return folder

    def _fit(self, folder: Path, resume: bool) -> None:
        assembly = self.rig.assembled
        module = build_module(assembly)
        console = Console(file=io.StringIO())
        fit(assembly, module, build_data(assembly, module), folder, resume=resume, console=console)


class SourceTests(TaskTests):
    """Checks of a data source: those of a task, of the one that the source is for.

    Example:
        class TestMyFiles(SourceTests):
            plugin = "my-files"
            settings = {"folder": "tests/files"}
    """

    kind = "source"


def _content(folder: Path, step: int) -> dict[str, Any]:
    found: dict[str, Any] = materialize(read_checkpoint(checkpoint_of(folder, step)))
    return found
