"""Killing a real process, and going on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.checkpoint import best_of, checkpoints_of, materialize, open_checkpoint, read_checkpoint
from t2x_core.training.fit import fit
from t2x_core.types import SampleKey
from tests.conftest import TINY
from tests.training.spoilt import train

SCRIPT = Path(__file__).with_name("traced_fit.py")
STEPS, EVERY, KILL_AFTER = 12, 4, 7
SETTINGS = [
    *TINY,
    f"trainer.max_steps={STEPS}",
    f"logging.checkpoint_every={EVERY}",
    "logging.validate_every=2",  # checkpoints fall on validations
    "logging.sample_every=5",
]


def start(folder: Path, pause: float, settings: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, SCRIPT, folder / "run", folder / "trace", str(pause), *settings])


def lines(folder: Path) -> list[dict]:
    """What has been traced so far; a last line may be cut short."""
    file = folder / "trace"
    return (
        [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
        if file.exists()
        else []
    )


def run_through(folder: Path, settings: list[str]) -> list[dict]:
    folder.mkdir(exist_ok=True)
    process = start(folder, 0, settings)
    assert process.wait(300) == 0
    return lines(folder)


def run_killed(folder: Path, settings: list[str], after: int) -> list[dict]:
    """Kills the process once it has traced `after` lines, then starts it again."""
    folder.mkdir(exist_ok=True)
    process = start(folder, 0.3, settings)
    deadline = time.monotonic() + 300
    while len(lines(folder)) < after and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return run_through(folder, settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run_through(folder, SETTINGS)
    return folder


def test_a_killed_run_goes_on_bit_for_bit(whole, tmp_path):
    expected = lines(whole)
    assert [line["step"] for line in expected] == list(range(STEPS))

    found = run_killed(tmp_path, SETTINGS, KILL_AFTER)
    steps = [line["step"] for line in found]
    killed_at = next(i for i in range(1, len(steps)) if steps[i] <= steps[i - 1])
    assert killed_at >= KILL_AFTER
    assert steps[killed_at] in (4, 6)  # a checkpoint of every 4 steps, or one of a new best
    for line in found:
        assert line == expected[line["step"]]
    assert steps[killed_at:] == list(range(steps[killed_at], STEPS))

    one, other = (materialize(open_checkpoint(f / "run", "last")[1]) for f in (whole, tmp_path))
    for name, weight in one["ema"]["weights"].items():
        assert torch.equal(weight, other["ema"]["weights"][name])


def test_tensorboard_shows_each_step_once_after_a_kill(whole, tmp_path):
    run_killed(tmp_path, SETTINGS, KILL_AFTER)

    def points(folder: Path, tag: str) -> list[tuple[int, float]]:
        events = EventAccumulator(str(folder / "run" / "tensorboard")).Reload()
        return [(point.step, point.value) for point in events.Scalars(tag)]

    for tag in ("loss/total", "val/loss", "optimizer/learning_rate", "optimizer/gradient_norm"):
        assert points(tmp_path, tag) == points(whole, tag)
    assert [step for step, _ in points(whole, "loss/total")] == list(range(1, STEPS + 1))
    assert [step for step, _ in points(whole, "val/loss")] == [2, 4, 6, 8, 10, 12]


def test_accumulation_takes_the_same_samples_and_resumes_exactly(whole, tmp_path):
    settings = [*SETTINGS, "trainer.accumulation=2"]
    expected = run_through(tmp_path / "through", settings)
    for step, line in enumerate(lines(whole)):
        halves = expected[2 * step : 2 * step + 2]
        assert [key for half in halves for key in half["keys"]] == line["keys"]
        losses = [float.fromhex(loss) for half in halves for loss in half["losses"]]
        assert losses == pytest.approx([float.fromhex(loss) for loss in line["losses"]], abs=1e-5)

    found = run_killed(tmp_path / "killed", settings, 2 * KILL_AFTER + 1)
    for line in found:
        step = line["step"]
        assert line in expected[2 * step : 2 * step + 2]
    assert found[-2 * (STEPS - 6) :] == expected[2 * 6 :]


class Ids(Callback):
    """Of each micro-batch of each optimizer step: its samples and their losses."""

    def __init__(self) -> None:
        self.steps: dict[int, list[tuple[list[SampleKey], list[float]]]] = defaultdict(list)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps[batch.keys[0].step].append((list(batch.keys), outputs["losses"].tolist()))
        last = len(self.steps[batch.keys[0].step]) == trainer.accumulate_grad_batches
        assert trainer.global_step == batch.keys[0].step + last  # it moves on with the last part of a batch alone


def test_a_run_goes_on_with_another_accumulation_from_its_first_step(tmp_path):
    """Whole batches of the same samples, and the same weights to rounding; no step takes halves of two batches."""
    settings = ("optimizer.schedule=constant", "trainer.global_batch=8", "logging.checkpoint_every=100")

    def trained(folder: str, *parts: tuple[int, int]) -> tuple[Ids, dict[str, torch.Tensor]]:
        ids = Ids()
        for number, (accumulation, steps) in enumerate(parts):
            more = (*settings, f"trainer.accumulation={accumulation}", f"trainer.max_steps={steps}")
            weights = train(tmp_path / folder, lambda key: 1.0, *more, resume=number > 0, extra=[ids])
        return ids, weights

    whole, expected = trained("whole", (1, 9))
    parted, found = trained("parted", (1, 3), (2, 5), (4, 7), (1, 9))
    assert sorted(parted.steps) == sorted(whole.steps) == list(range(9))
    assert [len(parts) for _, parts in sorted(parted.steps.items())] == [1, 1, 1, 2, 2, 4, 4, 1, 1]
    for step, ((keys, losses),) in whole.steps.items():
        assert [key for part, _ in parted.steps[step] for key in part] == keys
        assert [loss for _, part in parted.steps[step] for loss in part] == pytest.approx(losses, rel=1e-3)
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=2e-4)  # Adam amplifies rounding
    assert open_checkpoint(tmp_path / "parted", "last")[1]["ema"]["updates"] == 9


def test_a_resumed_run_knows_the_best_loss_of_its_last_step(tmp_path):
    """Checkpoint and validation fall on the same step: the checkpoint must hold what the validation found."""
    assembly = load_assembly("quickstart", [*TINY, "trainer.max_steps=2"])
    module = build_module(assembly)
    fit(assembly, module, build_data(assembly, module), tmp_path)
    (saved,) = checkpoints_of(tmp_path)
    assert best_of(tmp_path) == 2
    state = read_checkpoint(saved)["callbacks"]["Validation"]
    assert state["step"] == 2
    assert 0 < state["best"] == state["latest"]["val/loss"]
