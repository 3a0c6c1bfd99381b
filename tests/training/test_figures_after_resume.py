"""TensorBoard after a resume: each point is that of an uninterrupted run, none is lost and none is there twice."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.training import event_file, fit
from t2x_core.training.event_file import EventFile, EventWriter
from tests.conftest import TINY

SETTINGS = (
    *("optimizer.schedule=constant", "logging.log_every=5", "logging.validate_every=100", "logging.sample_every=0"),
    *("logging.checkpoint_every=100", "logging.final_score_samples=0"),
)


def train(folder: Path, steps: int, resume: bool = False) -> None:
    assembly = load_assembly("quickstart", [*TINY, *SETTINGS, f"trainer.max_steps={steps}"])
    module = build_module(assembly)
    fit(assembly, module, build_data(assembly, module), folder, resume=resume)


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_first_point_after_a_resume_has_the_steps_before_it(tmp_path):
    train(tmp_path / "whole", 15)
    train(tmp_path / "cut", 7)
    train(tmp_path / "cut", 11, resume=True)
    train(tmp_path / "cut", 15, resume=True)
    whole, cut = (points(tmp_path / name / "tensorboard") for name in ("whole", "cut"))
    assert [step for step, _ in whole["loss/total"]] == [5, 10, 15]
    compared = [tag for tag in whole if tag.startswith(("loss", "optimizer", "progress"))]
    assert len(compared) > 20
    for tag in compared:
        assert dict(cut[tag]) == pytest.approx(dict(whole[tag]), rel=1e-6), tag
    for tag, found in cut.items():
        assert len({step for step, _ in found}) == len(found), tag
        assert all(value == value for _, value in found), tag  # speed, too


def test_points_wait_while_the_disk_is_full_and_none_is_lost(tmp_path, monkeypatch, caplog):
    """A write that fails half-way is undone, said once, and made up for when there is room."""
    monkeypatch.setattr(event_file, "INTERVAL", -1.0)  # each event is written at once
    caplog.set_level("INFO", logger="t2x")
    room = [10**9]

    class Full(io.FileIO):
        def write(self, data: bytes) -> int:  # type: ignore[override]
            fits = data[: room[0] - self.tell()]
            super().write(fits)
            if len(fits) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return len(data)

    monkeypatch.setattr(Path, "open", lambda path, mode: Full(path, mode))
    writer = EventWriter(str(tmp_path))
    writer.add_scalar("loss", 1.0, 1)
    (file,) = tmp_path.iterdir()
    size = file.stat().st_size
    room[0] = size + 10
    for step in (2, 3, 4):
        writer.add_scalar("loss", float(step), step)
        assert file.stat().st_size == size
    said = {id(record): record.getMessage() for record in caplog.records}  # (a record may be there twice)
    assert sum("cannot be written (No space left on device)" in line for line in said.values()) == 1
    room[0] = 10**9
    writer.add_scalar("loss", 5.0, 5)
    writer.close()
    assert points(tmp_path) == {"loss": [(step, float(step)) for step in range(1, 6)]}
    again = {id(record) for record in caplog.records if "can be written again" in record.getMessage()}
    assert len(again) == 1


def test_no_more_is_kept_than_memory_has_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(event_file, "LARGEST_BACKLOG", 2000)
    (tmp_path / "a file").touch()
    full = EventFile(tmp_path / "a file" / "below")  # a folder that cannot be made
    for _ in range(3000):
        full.add_event(event_file.Event(step=1))
    full.flush()
    full.flush()
    assert len(full._waiting.getvalue()) <= 2000
