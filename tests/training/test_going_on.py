"""Signals, the end of a run, its best checkpoint, and its learning rate when it goes on."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.checkpoint import best_of, checkpoint_of, checkpoints_of, step_of
from t2x_core.training import FitResult, fit, run_folder
from t2x_core.training.callbacks import Sampling, checkpoints
from tests.conftest import TINY

QUIET = ("logging.sample_every=0", "logging.validate_every=100", "logging.checkpoint_every=100")


def train(folder: Path, *settings: str, resume: bool = False, extra: tuple[Callback, ...] = ()) -> FitResult:
    assembly = load_assembly("quickstart", [*TINY, *QUIET, *settings])
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    module = build_module(assembly)
    return fit(assembly, module, build_data(assembly, module), folder, resume=resume, extra=extra)


class At(Callback):
    """Does something in an optimizer step, and notes the learning rate of each (counted from 1)."""

    def __init__(self, step: int = 0, act: Any = None) -> None:
        self.step, self.act, self.rates = step, act, dict[int, float]()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.rates[trainer.global_step + 1] = trainer.optimizers[0].param_groups[0]["lr"]
        if trainer.global_step + 1 == self.step:
            self.act()


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal_ends_the_step_and_saves(tmp_path, monkeypatch, name):
    """As Ctrl-C does; under SLURM, too, where Lightning would write hpc_ckpt_1.ckpt into the current folder."""
    monkeypatch.chdir(tmp_path)
    for variable, value in (("SLURM_JOB_ID", "7"), ("SLURM_JOB_NAME", "interactive"), ("SLURM_NTASKS", "1")):
        monkeypatch.setenv(variable, value)
    number = getattr(signal, name)
    before = signal.getsignal(number)
    found = train(tmp_path / "run", "trainer.max_steps=5", extra=(At(2, lambda: os.kill(os.getpid(), number)),))
    assert (found.signal, found.steps) == (number, 2)
    assert [step_of(path) for path in checkpoints_of(tmp_path / "run")] == [2]
    assert run_folder.finished(tmp_path / "run") is None
    assert signal.getsignal(number) is before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_hangup_that_is_ignored_stays_ignored(tmp_path):
    """`nohup t2x fit …`"""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        found = train(tmp_path, "trainer.max_steps=3", extra=(At(2, lambda: os.kill(os.getpid(), signal.SIGHUP)),))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (found.signal, found.steps) == (None, 3)


def test_a_run_that_is_killed_in_its_last_sampling_makes_it_up(tmp_path, monkeypatch):
    class KilledError(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Sampling, "_run_task", killed)
        with pytest.raises(KilledError):
            train(tmp_path)
    assert [step_of(path) for path in checkpoints_of(tmp_path)] == [2]
    assert run_folder.finished(tmp_path) is None
    assert not list((tmp_path / "samples").iterdir())

    found = train(tmp_path, resume=True)
    assert (found.steps, found.trained, run_folder.finished(tmp_path)) == (2, 0, 2)
    (sample,) = (tmp_path / "samples").iterdir()
    assert sample.name == "text-to-image_0000002.png"
    sample.unlink()
    assert train(tmp_path, resume=True).seconds == 0.0  # there is nothing to do
    assert not list((tmp_path / "samples").iterdir())
    for damaged in ("", "{", "[2]", '{"steps": "2"}', "[" * 100_000):
        (tmp_path / "finished.json").write_text(damaged)
        assert run_folder.finished(tmp_path) is None


def test_the_best_checkpoint_is_noted_after_a_kill_before_its_note_and_kept(tmp_path, monkeypatch):
    class KilledError(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise KilledError

    settings = ("logging.validate_every=2", "logging.checkpoint_every=1", "logging.keep_checkpoints=1")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_best", killed)
        with pytest.raises(KilledError):
            train(tmp_path, *settings, "trainer.max_steps=6")
    assert best_of(tmp_path) is None
    assert step_of(checkpoints_of(tmp_path)[-1]) == 2
    (tmp_path / "checkpoints" / ".best.part.json").write_text("half")  # what the rename would have taken

    class Risen(Callback):
        """Every validation but the first finds a larger loss."""

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            validation = next(c for c in trainer.callbacks if type(c).__name__ == "Validation")
            validation.best = -1.0

    train(tmp_path, *settings, "trainer.max_steps=6", resume=True, extra=(Risen(),))
    assert best_of(tmp_path) == 2
    assert [step_of(path) for path in checkpoints_of(tmp_path)] == [2, 6]  # the best, and the newest
    assert json.loads((tmp_path / "checkpoints" / "best.json").read_text())["step"] == 2
    assert checkpoint_of(tmp_path, 2).is_dir()


def test_the_learning_rate_follows_the_new_length_from_the_first_step_on(tmp_path, caplog, monkeypatch):
    settings = ("optimizer.schedule=cosine", "optimizer.warmup_steps=1", "optimizer.lr=1e-3")
    whole, rest = At(), At()
    train(tmp_path, *settings, "trainer.max_steps=4", extra=(whole,))
    caplog.set_level("INFO", logger="t2x")
    train(tmp_path, *settings, "trainer.max_steps=8", resume=True, extra=(rest,))
    other = At()
    train(tmp_path / "other", *settings, "trainer.max_steps=8", extra=(other,))
    assert list(rest.rates) == [5, 6, 7, 8]
    assert rest.rates == pytest.approx({step: other.rates[step] for step in rest.rates})
    assert rest.rates[5] > whole.rates[4]  # which was on its way to 0
    assert f"learning rate of step 5: {rest.rates[5]:.3g}; with the settings before it would have been 0" in caplog.text
