"""Steps with a bad gradient: skipped to the last bit, reported, and rolled back if they do not end."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from t2x_core.checkpoint import best_of, checkpoints_of, open_checkpoint, step_of
from t2x_core.cli.main import main
from t2x_core.errors import TrainingError
from t2x_core.optim import StepGate, build_optimizer
from t2x_core.recipe import OptimizerConfig
from t2x_core.training import run_folder
from t2x_core.training.callbacks.guard import _is_overflow
from tests.conftest import TINY
from tests.training.spoilt import nan_in, report, train

OPTIMIZERS = ("adamw", "muon", "lion")


class Recorder(Callback):
    """Weights and optimizer state after each step, and the keys' attempts."""

    def __init__(self) -> None:
        self.weights: dict[int, list[torch.Tensor]] = {}
        self.state: dict[int, dict[Any, torch.Tensor]] = {}
        self.attempts: list[tuple[int, int]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._note(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.attempts.append((batch.keys[0].step, batch.keys[0].attempt))
        self._note(trainer, pl_module)

    def _note(self, trainer: Any, pl_module: Any) -> None:
        named = dict(pl_module.trainable())
        state = trainer.optimizers[0].state
        self.weights[trainer.global_step] = [p.detach().clone() for p in named.values()]
        self.state[trainer.global_step] = {
            (name, key): value.clone()
            for name, p in named.items()
            for key, value in state[p].items()
            if torch.is_tensor(value)
        }

    def unchanged(self, step: int) -> bool:
        """Whether optimizer step `step` (from 0) left everything as it was; state that it made has to be zero."""
        before, after = self.state[step], self.state[step + 1]
        return all(map(torch.equal, self.weights[step], self.weights[step + 1])) and all(
            torch.equal(value, before.get(key, torch.zeros_like(value))) for key, value in after.items()
        )


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_bad_step_changes_nothing_and_training_goes_on(name, accumulation, tmp_path):
    recorder = Recorder()
    settings = (f"optimizer.name={name}", "trainer.max_steps=6", f"trainer.accumulation={accumulation}")
    train(tmp_path, lambda key: nan_in(range(0, 1))(key) * nan_in(range(3, 4))(key), *settings, extra=[recorder])
    assert [recorder.unchanged(step) for step in range(6)] == [True, False, False, True, False, False]
    assert all(w.isfinite().all() for w in recorder.weights[6])
    assert [line["step"] for line in report(tmp_path)] == [1, 4]


def test_the_report_names_the_samples_of_the_whole_step(tmp_path):
    train(tmp_path, nan_in(range(2, 3)), "trainer.max_steps=4", "trainer.accumulation=2")
    (line,) = report(tmp_path)
    assert (line["step"], line["attempt"], line["reason"]) == (3, 0, "nan")
    assert (line["task"], line["bucket"], line["shape"]) == ("text-to-image", 0, [1, 16, 16])
    assert line["loss"] == line["gradient_norm"] == line["norms"]["backbone.mlp"] == "nan"
    assert 0 < line["running_mean"] < 100
    assert [sample["slot"] for sample in line["samples"]] == [0, 1, 2, 3]
    assert [sample["loss"] == "nan" for sample in line["samples"]] == [False, False, False, True]
    assert all(0 < sample["t"] <= 1 and sample["caption"] for sample in line["samples"])


def test_infinity_has_its_name(tmp_path):
    train(tmp_path, lambda key: 1e38 if key.step == 1 else 1.0, "trainer.max_steps=3")
    assert [(line["step"], line["reason"], line["gradient_norm"]) for line in report(tmp_path)] == [
        (2, "infinity", "inf")
    ]


@pytest.mark.parametrize(("settings", "skipped"), [([], [4]), (["guard.spike=null"], []), (["guard.grace=4"], [])])
def test_a_spike_is_skipped_after_the_grace_and_if_it_counts(settings, skipped, tmp_path):
    recorder = Recorder()
    settings = ["trainer.max_steps=6", "guard.grace=3", *settings]
    train(tmp_path, lambda key: 1e3 if key.step == 3 else 1.0, *settings, extra=[recorder])
    lines = report(tmp_path)
    assert [line["step"] for line in lines] == skipped
    assert recorder.unchanged(3) == bool(skipped)
    for line in lines:
        assert line["reason"] == "spike"
        assert line["gradient_norm"] > 10 * line["running_mean"]


def test_tasks_have_running_means_of_their_own():
    p = nn.Parameter(torch.ones(3))
    gate = StepGate(torch.optim.AdamW([p], fused=True), ["small", "large"], 10.0, grace=2)
    for task, norm, bad in [
        *[("small", 1.0, 0), ("small", 2.0, 0), ("small", 15.1, 1), ("small", 14.9, 0)],
        *[("large", 500.0, 0), ("large", 500.0, 0), ("large", 4999.0, 0), ("small", math.inf, 1)],
    ]:
        gate.task = task
        gate(torch.tensor([norm**2 / 2, norm**2 / 2]))
        assert gate.verdict[0] == bad, (task, norm)
    state = gate.state_dict()
    assert state["small"] == (pytest.approx((1.0 + 2.0 + 14.9) / 3), 3)
    assert state["large"][1] == 3
    other = StepGate(torch.optim.AdamW([p], fused=True), ["small", "large"], 10.0, grace=2)
    other.load_state_dict(json.loads(json.dumps(state)))
    assert torch.equal(other.means, gate.means)
    assert torch.equal(other.counts, gate.counts)


def test_the_figures_leave_skipped_steps_out(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, nan_in(range(2, 3)), "trainer.max_steps=8", "logging.log_every=4")
    events = EventAccumulator(str(tmp_path / run_folder.TENSORBOARD)).Reload()
    for tag in ("loss/total", "optimizer/gradient_norm"):
        assert [0 < point.value < 100 for point in events.Scalars(tag)] == [True, True], tag


def test_a_series_is_rolled_back_and_drawn_anew(tmp_path):
    recorder = Recorder()
    settings = ["guard.max_skips=3", "logging.checkpoint_every=5", "trainer.max_steps=12"]
    through = train(tmp_path / "through", nan_in(range(6, 12)), *settings, extra=[recorder])
    # The verdict on the third bad step, 8, is read after step 9; the checkpoint of step 5 is from before the series.
    assert recorder.attempts == [(step, 0) for step in range(10)] + [(step, 1) for step in range(5, 12)]
    assert [(line["step"], line["attempt"]) for line in report(tmp_path / "through")] == [
        (step, 0) for step in range(7, 11)
    ]
    assert all(w.isfinite().all() for w in through.values())

    train(tmp_path / "parts", nan_in(range(6, 12)), *settings, "trainer.max_steps=11")
    recorder = Recorder()
    parts = train(tmp_path / "parts", nan_in(range(6, 12)), *settings, resume=True, extra=[recorder])
    assert recorder.attempts == [(11, 1)]  # a resumed run stays in its attempt
    assert all(torch.equal(parts[name], weight) for name, weight in through.items())


def test_a_series_that_comes_again_ends_the_training(tmp_path):
    settings = ["guard.max_skips=3", "logging.checkpoint_every=5", "logging.validate_every=5", "trainer.max_steps=12"]
    with pytest.raises(TrainingError, match="4 steps in a row were skipped, from step 7 on, and again after going ba"):
        train(tmp_path, nan_in(range(6, 12), attempts=9), *settings)
    assert [(line["step"], line["attempt"]) for line in report(tmp_path)] == [
        (step, attempt) for attempt in (0, 1) for step in range(7, 11)
    ]
    assert [step_of(path) for path in checkpoints_of(tmp_path)] == [5]  # as they were
    assert best_of(tmp_path) == 5


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(tmp_path):
    settings = ["guard.max_skips=2", "logging.checkpoint_every=100", "trainer.max_steps=12"]
    with pytest.raises(TrainingError, match=r"from step 2 on, and there is no checkpoint from before.*t2x replay .* 2"):
        train(tmp_path, nan_in(range(1, 12)), *settings)
    assert not checkpoints_of(tmp_path)


def test_a_series_at_the_very_end_is_seen(tmp_path):
    settings = ["guard.max_skips=2", "logging.checkpoint_every=3", "trainer.max_steps=6"]
    recorder = Recorder()
    train(tmp_path, nan_in(range(4, 6)), *settings, extra=[recorder])
    assert recorder.attempts[-4:] == [(5, 0), (3, 1), (4, 1), (5, 1)]


def test_a_resume_in_the_middle_of_a_series_is_exact(tmp_path):
    factor, settings = nan_in(range(2, 5)), ["logging.checkpoint_every=4", "guard.grace=1"]
    through = train(tmp_path / "through", factor, *settings, "trainer.max_steps=8")
    train(tmp_path / "parts", factor, *settings, "trainer.max_steps=4")
    parts = train(tmp_path / "parts", factor, *settings, "trainer.max_steps=8", resume=True)
    assert all(torch.equal(parts[name], weight) for name, weight in through.items())
    one, other = (open_checkpoint(tmp_path / folder, "last")[1]["guard"] for folder in ("through", "parts"))
    assert one == other
    for line, same in zip(report(tmp_path / "through"), report(tmp_path / "parts"), strict=True):
        assert {**line, "when": ""} == {**same, "when": ""}

    more = [*settings, "guard.max_skips=4"]  # two of the four before the resume, two after it
    train(tmp_path / "long", nan_in(range(2, 8)), *more, "trainer.max_steps=4")
    with pytest.raises(TrainingError, match="5 steps in a row were skipped, from step 3 on"):
        train(tmp_path / "long", nan_in(range(2, 8)), *more, "trainer.max_steps=8", resume=True)


@pytest.mark.parametrize("attempts", [0, pytest.param(9, marks=pytest.mark.slow)])
def test_two_ranks_decide_alike(attempts, tmp_path):
    """Only the second rank sees the bad sample. Attempt 0 alone: rolled back and done; all attempts: a clear stop."""
    root = Path(__file__).parents[2]
    settings = ["trainer.devices=2", "trainer.strategy=ddp", "guard.max_skips=3", "logging.checkpoint_every=5"]
    command = [
        sys.executable,
        "-m",
        "tests.training.spoilt",
        tmp_path / "run",
        "6",
        "11",
        str(attempts),
        *settings,
        "trainer.max_steps=12",
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line)["outcome"] for line in done.stdout.splitlines() if line.startswith('{"outcome"')]
    told = done.stderr.count(f"rank 0: TrainingError: {outcomes[0]}")  # by the other rank, ended before its own error
    assert len(outcomes) + told == 2
    assert outcomes[0] == outcomes[-1]
    assert ("again after going back to step 5" in outcomes[0]) == (attempts > 0)
    lines = report(tmp_path / "run")
    assert [line["step"] for line in lines] == [7, 8, 9, 10] * (1 if attempts == 0 else 2)
    for line in lines:
        assert [(sample["slot"], sample["loss"] == "nan") for sample in line["samples"]] == [
            *[(0, False), (1, False), (2, False), (3, True)]
        ]


class Syncs(TorchDispatchMode):
    """Optimizer steps (from 1) in which a value was fetched from a tensor, as `.item()` and `if tensor:` do."""

    def __init__(self) -> None:
        super().__init__()
        self.step: int | None = None
        self.found: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and self.step is not None:
            self.found.add(self.step)
        return func(*args, **(kwargs or {}))


class Border(Callback):
    """Tells `Syncs` where a step begins (as the first callback) and ends (as the last one)."""

    def __init__(self, syncs: Syncs, fetch_in: int | None = None) -> None:
        self.syncs, self.fetch_in = syncs, fetch_in

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.syncs.step = trainer.global_step + 1

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.fetch_in:
            outputs["loss"].item()
        self.syncs.step = None


@pytest.mark.parametrize("name", ["adamw", "lion"])  # Muon looks at its step count, which is on the CPU here
def test_no_step_waits_for_the_device(name, tmp_path):
    settings = (f"optimizer.name={name}", "trainer.max_steps=6", "logging.log_every=3", "logging.checkpoint_every=100")
    syncs = Syncs()
    with syncs:
        train(tmp_path / "run", lambda key: 1.0, *settings, extra=[Border(syncs)])
    assert not syncs.found - {1, 3, 6}  # the first batch is checked; log points
    with syncs:
        train(tmp_path / "control", lambda key: 1.0, *settings, extra=[Border(syncs, fetch_in=2)])
    assert 2 in syncs.found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_loss_scale_that_is_too_large_skips_and_mends_itself(name):
    """The order of operations is that of Lightning with 16-mixed: unscale, measure, step, update."""
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    optimizer = build_optimizer(model.named_parameters(), OptimizerConfig(name=name))
    gate = StepGate(optimizer, ["task"], 10.0, grace=100)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000)
    moved, verdicts = [], []
    for _ in range(4):
        before = model.weight.detach().clone()
        optimizer.zero_grad()
        scaler.scale(model(torch.full((2, 4), 2.0)).square().mean()).backward()
        scaler.unscale_(optimizer)
        gate(torch.stack([p.grad.square().sum() for p in model.parameters()]))
        verdicts.append(bool(gate.verdict[0]))
        scaler.step(optimizer)
        scaler.update()
        moved.append(not torch.equal(before, model.weight))
    assert verdicts[0]
    assert not verdicts[-1]
    assert moved == [not bad for bad in verdicts]
    assert model.weight.isfinite().all()
    assert gate.means[0] < 100  # of gradients without the scale


def test_only_an_overflow_of_the_scale_is_no_reason_for_alarm():
    def overflow(norm: float, loss: float, scale: float | None) -> bool:
        scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
        if scaler is not None:
            scaler.scale(torch.ones(()))
        plugin = SimpleNamespace(scaler=scaler)
        return _is_overflow(SimpleNamespace(precision_plugin=plugin), norm, [{"loss": 1.0}, {"loss": loss}])

    assert overflow(math.inf, 1.0, 1024.0)
    assert not overflow(math.inf, math.nan, 1024.0)  # the loss itself
    assert not overflow(math.inf, 1.0, 0.5)  # there is nothing left to lower
    assert not overflow(50.0, 1.0, 1024.0)  # a spike
    assert not overflow(math.inf, 1.0, None)  # no scale


def test_the_command_says_in_one_line_that_training_failed(tmp_path, monkeypatch, capsys):
    def failing(*args: Any, **options: Any) -> None:
        raise TrainingError("3 steps in a row were skipped")

    monkeypatch.setattr("t2x_core.training.fit", failing)
    assert main(["fit", "quickstart", *TINY, "--folder", str(tmp_path / "run")]) == 3
    assert capsys.readouterr().err == "t2x: training failed: 3 steps in a row were skipped\n"
