"""A loader that hangs or loses a process says what it was reading; the same data is known by its fingerprint."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.awake import AwakeClock
from t2x_core.data import loader as loading
from t2x_core.data import stack
from t2x_core.data.loader import KeyedLoader, dead_worker
from t2x_core.errors import TrainingError
from t2x_core.interfaces import Source
from t2x_core.types import Batch, Bucket, Sample, SampleKey, Variation
from tests.conftest import IMAGES, TINY, TINY_IMAGES
from tests.data.image_set import write_good

ROOT = Path(__file__).parents[2]


class Files(Source):
    """Reading the sample `hangs` takes as long as the file `gate` is there; `dies` ends the process."""

    def __init__(self, gate: Path, hangs: int = -1, dies: int = -1) -> None:
        self.gate, self.hangs, self.dies = gate, hangs, dies

    def buckets(self) -> Sequence[Bucket]:
        return [Bucket(1, 2, 2, 8)]

    def __len__(self) -> int:
        return 8

    def vary(self, key: SampleKey) -> Variation:
        return Variation(key)

    def load(self, variation: Variation) -> Sample:
        key = variation.key
        if key.id == self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        while key.id == self.hangs and self.gate.exists():
            time.sleep(0.01)
        return Sample(key, torch.zeros(3, 1, 2, 2), "")

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return stack(samples)

    def name(self, key: SampleKey) -> str:
        return f"video_{key.id}.mp4"


def loader(source: Source, workers: int, stall_minutes: float | None) -> KeyedLoader:
    batches = [[SampleKey("videos", 0, id, 0, id)] for id in range(8)]
    return KeyedLoader({"videos": source}, batches, workers, stall_minutes)


@pytest.fixture
def gate(tmp_path):
    file = tmp_path / "gate"
    file.touch()
    return file


def test_a_loader_that_hangs_names_what_it_reads_and_its_processes_end(gate):
    stalled = loader(Files(gate, hangs=5), 2, 0.02)
    seen = []
    with pytest.raises(TrainingError) as caught:
        seen.extend(batch.keys[0].id for batch in stalled)
    assert seen == [0, 1, 2, 3, 4]
    assert str(caught.value).startswith(
        "the loader gave no batch for 0.02 minutes: process 1 has been reading video_5.mp4 "
        "(sample 5 of bucket 0 of videos) for "
    )
    processes = stalled._iterator._workers
    stalled._iterator._shutdown_workers()
    for process in processes:
        process.join(60)
        assert not process.is_alive()


@pytest.mark.parametrize(("pauses", "comes"), [({2: 3600.0}, 16), ({}, 16), ({}, 99)])
def test_a_time_in_which_all_were_stopped_is_no_stall(pauses, comes, monkeypatch):
    """Of 20 seconds' patience: an hour of Ctrl-Z in the second look does not take the batch of the 16th away."""
    now, looks = [0.0], []

    def look(seconds):
        looks.append(seconds)
        now[0] += pauses.get(len(looks), seconds)
        return len(looks) == comes, "batch"

    monkeypatch.setattr(loading, "AwakeClock", lambda interval: AwakeClock(interval, lambda: now[0]))
    batches = SimpleNamespace(_try_get_data=look)
    loading._wait_awake(batches)
    assert batches._try_get_data(20.0) == ((True, "batch") if comes == 16 else (False, None))
    assert looks == [1.0] * min(comes, 20)


def test_torch_asks_for_a_batch_by_the_method_that_is_replaced(gate):
    read = iter(stalled := loader(Files(gate), 1, 1.0))
    next(read)
    assert "_try_get_data" in vars(stalled._iterator)
    assert stalled._iterator._timeout == 60


def test_without_processes_a_slow_sample_is_named_in_the_log(gate, caplog):
    class Opens(logging.Handler):
        def emit(self, record):
            gate.unlink(missing_ok=True)

    opens = Opens()
    logging.getLogger("t2x").addHandler(opens)
    try:
        with caplog.at_level(logging.WARNING, "t2x"):
            assert len(list(loader(Files(gate, hangs=3), 0, 0.01))) == 8
    finally:
        logging.getLogger("t2x").removeHandler(opens)
    (line,) = caplog.messages
    assert line == "reading video_3.mp4 (sample 3 of bucket 0 of videos) takes more than 0.01 minutes"


def test_a_killed_process_is_one_line(gate):
    """In a process of its own: torch's handler of SIGCHLD raises in the midst of anything, pytest's work included."""
    script = (
        "import pathlib, signal\n"
        "from tests.data.test_loader import Files, dead_worker, loader\n"
        "try:\n"
        f"    list(loader(Files(pathlib.Path({str(gate)!r}), dies=4), 2, None))\n"
        "except Exception as error:\n"
        "    signal.signal(signal.SIGCHLD, signal.SIG_DFL)\n"
        "    print(dead_worker(error) or error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    said = done.stdout.strip()
    happened, advice = said.split("; ")
    assert re.fullmatch(
        r"a loader process (\(pid \d+\) is killed by signal: Killed|(\(pid \d+\) )?exited unexpectedly)", happened
    )
    assert advice == "the system does that when memory runs out: set fewer trainer.workers, then --resume"


@pytest.mark.parametrize("text", ["DataLoader timed out after 3 seconds", "shapes differ"])
def test_other_errors_are_no_dead_process(text):
    assert dead_worker(RuntimeError(text)) is None


def test_a_full_shared_memory_is_told_from_a_full_memory():
    text = "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are …"
    assert str(dead_worker(RuntimeError(text))) == (
        "a loader process (pid 7) is killed by signal: Bus error; "
        "/dev/shm is full: enlarge it, or set fewer trainer.workers, then --resume"
    )


def fingerprint(*settings):
    recipe = "text_to_image/folder" if TINY_IMAGES[0] in settings else "quickstart"
    assembly = load_assembly(recipe, settings)
    data = build_data(assembly, build_module(assembly))
    data.check()
    return data.fingerprint()


def test_a_fingerprint_knows_other_files_and_other_counts(tmp_path):
    folders = [tmp_path / name for name in ("one", "moved", "renamed", "more")]
    for folder in folders:
        folder.mkdir()
        write_good(folder, 28)
    name = sorted(folders[2].rglob("*.txt"))[3]
    for file in (name, *name.parent.glob(f"{name.stem}.*")):
        if file.exists():
            file.rename(file.with_name(f"z{file.name}"))
    write_good(folders[3], 32)
    one, moved, renamed, more = (
        fingerprint(*TINY_IMAGES, f"{IMAGES}.folder={folder}", "trainer.workers=0") for folder in folders
    )
    assert moved == one
    assert renamed != one
    assert more["text-to-image"]["train"]["buckets"] != one["text-to-image"]["train"]["buckets"]
    assert fingerprint(*TINY)["text-to-image"]["train"]["names"] is None
    assert fingerprint(*TINY) == fingerprint(*TINY)
    assert fingerprint(*TINY) != fingerprint(*TINY, "tasks.text-to-image.data.shapes.count=77")
