"""When an optimizer step is done, and who is called then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from t2x_core.training.steps import Step, StepCallback, Steps
from t2x_core.types import Batch, SampleKey


class Called(StepCallback):
    def __init__(self, name: str, calls: list[Any]) -> None:
        self.name, self.calls = name, calls

    def on_optimizer_step(self, trainer: Any, module: Any, step: Step) -> None:
        self.calls.append((self.name, step))


def test_callbacks_are_called_in_their_order_once_for_each_optimizer_step():
    calls: list[Any] = []
    steps = Steps()
    trainer = SimpleNamespace(
        global_step=3, callbacks=[Called("first", calls), object(), Called("second", calls), steps]
    )
    steps.on_train_start(trainer, None)
    for number, (slot, done) in enumerate([(0, 3), (1, 4), (2, 4), (3, 5), (4, 6)]):
        batch = Batch("task", ["a"], [SampleKey("task", 0, 0, number, slot)], torch.zeros(1, 3, 1, 8, 16))
        trainer.global_step = done  # as Lightning counts: it moves on in the last micro-batch of a step
        steps.on_train_batch_end(trainer, None, {"loss": 0, "losses": slot, "terms": {}, "t": 0, "tokens": 1}, batch, 0)
    assert [name for name, _ in calls] == ["first", "second"] * 3
    found = [step for name, step in calls if name == "second"]
    assert [step.number for step in found] == [4, 5, 6]
    assert [[outputs["losses"] for _, outputs in step.parts] for step in found] == [[0, 1], [2, 3], [4]]
    assert all(batch.pixels is None for step in found for batch, _ in step.parts)
    assert (found[0].task, found[0].shape) == ("task", (1, 8, 16))
