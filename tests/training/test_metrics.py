"""What a run writes to TensorBoard and to the terminal, read back."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.losses import TaskLoss
from t2x_core.training import fit, run_folder
from tests.conftest import TINY


def trained(folder: Path, *settings: str, console: Console | None = None, loss: Any = None) -> EventAccumulator:
    assembly = load_assembly("quickstart", [*TINY, *settings])
    module = build_module(assembly)
    if loss is not None:
        module.losses["text-to-image"] = TaskLoss(loss)
    (folder / run_folder.SAMPLES).mkdir()
    fit(assembly, module, build_data(assembly, module), folder, console=console)
    return EventAccumulator(str(folder / run_folder.TENSORBOARD), {"images": 0}).Reload()


def values(events: EventAccumulator, tag: str) -> dict[int, float]:
    return {point.step: point.value for point in events.Scalars(tag)}


def test_tensorboard_has_all_there_is_to_watch(tmp_path):
    events = trained(tmp_path, "trainer.max_steps=4", "logging.log_every=2", "trainer.global_batch=16")
    for tag in ("loss/total", "optimizer/learning_rate", "optimizer/gradient_norm", "speed/samples_per_second"):
        found = values(events, tag)
        assert sorted(found) == [2, 4], tag
        assert all(value > 0 for value in found.values()), tag
    assert sorted(values(events, "val/loss")) == [2, 4]
    ranges = [tag for tag in events.Tags()["scalars"] if tag.startswith("loss_by_t/")]
    assert ranges
    for tag in ("score/text-to-image/all", "score/text-to-image/shape", "score/text-to-image/place"):
        assert sorted(values(events, tag)) == [2, 4]
    images = events.Images("samples/text-to-image")
    assert [image.step for image in images] == [2, 4]
    assert images[0].width > 2 * 128
    written = sorted(file.name for file in (tmp_path / "samples").iterdir())
    assert written == ["text-to-image_0000002.png", "text-to-image_0000004.png"]


def test_the_total_is_the_mean_over_the_samples_of_the_ranges(tmp_path):
    """With every time in one range, its loss is the total."""
    events = trained(tmp_path, "diffusion.timesteps={distribution: logit-normal, mean: 8.0, std: 0.1}")
    assert values(events, "loss_by_t/text-to-image/0.9-1.0") == values(events, "loss/total")
    assert "loss_by_t/text-to-image/0.0-0.1" not in events.Tags()["scalars"]


def test_each_term_of_a_loss_is_shown_with_its_weight(tmp_path):
    """The terms add up to the total; a term that only some steps have is the mean over these."""

    def loss(velocity, noised, batch):
        error = (velocity - noised.velocity).square().flatten(1).mean(1)
        own = torch.tensor([float(key.slot) for key in batch.keys])
        return {"error": error, "slot": own, **({"odd": own + 2} if batch.keys[0].step % 2 else {})}

    loss.weights = {"slot": 0.5}
    events = trained(tmp_path, "trainer.max_steps=4", "logging.log_every=2", "trainer.accumulation=2", loss=loss)
    error, slot, odd = (values(events, f"loss/text-to-image/{name}") for name in ("error", "slot", "odd"))
    assert slot == {2: 0.75, 4: 0.75}  # half of the mean of 0, 1, 2, 3
    assert odd == {2: 3.5, 4: 3.5}
    total = {step: error[step] + 0.75 + 3.5 / 2 for step in error}
    assert values(events, "loss/total") == pytest.approx(total)


def test_the_learning_rate_that_is_shown_is_that_of_the_step(tmp_path):
    settings = ("trainer.max_steps=4", "optimizer.warmup_steps=4", "optimizer.lr=0.1", "optimizer.schedule=constant")
    events = trained(tmp_path, *settings)
    assert values(events, "optimizer/learning_rate") == pytest.approx({1: 0.025, 2: 0.05, 3: 0.075, 4: 0.1})


def test_a_seeded_run_has_the_losses_it_always_had(tmp_path):
    """Golden: a change here changes what every recipe trains. Other processors differ in the last digits only."""
    events = trained(tmp_path, "trainer.max_steps=3")
    assert list(values(events, "loss/total").values()) == pytest.approx(GOLDEN["loss/total"], rel=2e-4)
    assert values(events, "val/loss")[2] == pytest.approx(GOLDEN["val/loss"], rel=2e-4)


GOLDEN = {"loss/total": [0.938415, 0.889072, 0.825410], "val/loss": 0.775747}


def test_without_a_terminal_there_are_plain_lines(tmp_path):
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    log = logging.getLogger("t2x")
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    out = io.StringIO()
    try:
        trained(tmp_path, "trainer.max_steps=3", console=Console(file=out))
    finally:
        log.removeHandler(handler)
    steps = [line for line in lines if "samples/s" in line]
    assert [line.split()[1] for line in steps] == ["1/3", "2/3", "3/3"]
    assert steps[-1].endswith("0:00 left")
    assert out.getvalue() == ""


def test_on_a_terminal_there_is_a_bar(tmp_path):
    out = io.StringIO()
    trained(tmp_path, console=Console(file=out, force_terminal=True, width=100))
    assert "training" in out.getvalue()
    assert "2/2" in out.getvalue()
    assert "loss" in out.getvalue()
