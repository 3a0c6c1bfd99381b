"""What is sampled while training besides held-out conditions: the user's own prompts, in a trained shape."""

from __future__ import annotations

from dataclasses import replace

from t2x_core.assembly import Assembly, sample_bucket
from t2x_core.data.mixture import MixedData
from t2x_core.module import T2XModule
from t2x_core.run_facts import trained_shape
from t2x_core.types import Batch, Bucket


def task_shape(assembly: Assembly, module: T2XModule, data: MixedData, name: str) -> Bucket:
    """The trained shape in which a task is sampled."""
    return trained_shape(sample_bucket(assembly, module, name), data.modules[name].train_source().buckets())


def prompt_conditions(assembly: Assembly, module: T2XModule, data: MixedData, name: str) -> tuple[Batch, Bucket] | None:
    """What `logging.prompts` asks of a task, and the shape of the samples; None if it asks nothing.

    Images that the task needs besides come from the first held-out samples.

    Raises:
        UserError: the task does not understand a prompt.
    """
    prompts, task = assembly.recipe.prompts(name), assembly.tasks[name]
    if not prompts:
        return None
    with (
        assembly.composed.error_location("logging.prompts"),
        module.calls(f"tasks.{name}", "conditions", code=task.conditions),
    ):
        conditions = task.conditions(prompts)
    if lacking := [control for control in task.encoded_controls if control not in conditions.controls]:
        given = data.val_conditions(name, len(prompts))
        controls = {control: given.controls[control] for control in lacking if control in given.controls}
        conditions = replace(conditions, controls={**conditions.controls, **controls}, shape=given.shape)
    shape = Bucket(*conditions.shape) if conditions.shape else task_shape(assembly, module, data, name)
    return conditions, shape
