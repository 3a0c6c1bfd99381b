"""Real processes over gloo: any strategy on any number of ranks trains on the same samples with the same losses."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t2x_core.checkpoint import checkpoints_of, materialize, open_checkpoint, read_checkpoint, step_of
from t2x_core.generation import T2XPipeline
from tests.conftest import TINY

SCRIPT = Path(__file__).with_name("traced_fit.py")
STEPS = 20
SETTINGS = (
    *TINY,
    "trainer.max_steps=20",
    "logging.validate_every=10",
    "logging.sample_every=0",
    "optimizer.clip_norm=0.5",
)
Trace = dict[tuple[int, int], tuple[list, float]]


def devices(count: int, strategy: str) -> list[str]:
    shards = ["trainer.shards=2"] if strategy == "hsdp" else []
    return [f"trainer.devices={count}", f"trainer.strategy={strategy}", *shards]


def command(folder: Path, *settings: str, pause: float = 0) -> list[str]:
    return [sys.executable, str(SCRIPT), str(folder / "run"), str(folder / "trace"), str(pause), *SETTINGS, *settings]


def traced(folder: Path, *settings: str) -> Trace:
    """(step, slot) → the sample's key and loss."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(command(folder, *settings), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return trace(folder)


def trace(folder: Path) -> Trace:
    found = {}
    for line in map(json.loads, (folder / "trace").read_text().splitlines()):
        for key, loss in zip(line["keys"], line["losses"], strict=True):
            found[line["step"], key[4]] = key, float.fromhex(loss)
    return found


def assert_same(found: Trace, expected: Trace) -> None:
    assert found.keys() == expected.keys()
    for where, (key, loss) in expected.items():
        assert found[where][0] == key
        assert found[where][1] == pytest.approx(loss, abs=1e-5)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    found = traced(tmp_path_factory.mktemp("one"))
    assert len(found) == STEPS * 4
    return found


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of a run on four ranks with hsdp: two copies of the weights, each on two."""
    folder = tmp_path_factory.mktemp("four")
    traced(folder, *devices(4, "hsdp"), "logging.checkpoint_every=10", "logging.keep_checkpoints=99")
    return folder


@pytest.mark.parametrize(("strategy", "count"), [("ddp", 2), ("fsdp2", 2), ("fsdp2", 4)])
def test_ranks_train_on_the_same_samples_with_the_same_losses(strategy, count, one, tmp_path):
    assert_same(traced(tmp_path, *devices(count, strategy)), one)
    (events,) = tmp_path.glob("run/tensorboard/events*")  # the first rank alone writes
    assert events.stat().st_size


def test_hsdp_on_four_ranks_too(four, one):
    assert_same(trace(four), one)


def test_accumulation_with_shards(one, tmp_path):
    assert_same(traced(tmp_path, *devices(2, "fsdp2"), "trainer.accumulation=2"), one)


@pytest.mark.parametrize(("strategy", "count"), [("auto", 1), ("ddp", 2), ("fsdp2", 2)])
def test_a_run_of_four_ranks_goes_on_with_others(strategy, count, four, one, tmp_path):
    """From the middle: the later checkpoint is gone."""
    shutil.copytree(four / "run", tmp_path / "run")
    for later in checkpoints_of(tmp_path / "run"):
        if step_of(later) > 10:
            shutil.rmtree(later)
    found = traced(tmp_path, *devices(count, strategy))
    half = {(step, slot): value for (step, slot), value in one.items() if step >= 10}
    assert_same(found, half)


def test_two_ranks_go_back_to_the_same_checkpoint_when_the_newest_is_damaged(tmp_path):
    """A sector of it is lost: it is set aside once, and both ranks train from the one before."""
    one = traced(tmp_path, "logging.checkpoint_every=10")
    (tmp_path / "trace").unlink()
    newest = checkpoints_of(tmp_path / "run")[-1]
    file = max(newest.glob("*.safetensors"), key=lambda file: file.stat().st_size)
    data = bytearray(file.read_bytes())
    middle = (8 + int.from_bytes(data[:8], "little") + len(data)) // 2
    data[middle : middle + 512] = bytes(byte ^ 1 for byte in data[middle : middle + 512])
    file.write_bytes(data)
    found = traced(tmp_path, *devices(2, "ddp"))
    assert_same(found, {(step, slot): value for (step, slot), value in one.items() if step >= 10})
    (aside,) = newest.parent.glob("*damaged*")
    assert newest.name in aside.name


def test_a_sharded_checkpoint_holds_each_row_once_and_opens_anywhere(four):
    folder, content = open_checkpoint(four / "run", "last")
    assert len(list(folder.glob("*.safetensors"))) == 2  # the second copy of the weights is not saved
    weights = materialize(content["state_dict"])
    pipeline = T2XPipeline.from_pretrained(four / "run", device="cpu")
    assert {name: p.shape for name, p in pipeline.module.trainable()} == {n: w.shape for n, w in weights.items()}
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    one_copy = sum(w.nbytes for w in weights.values())
    assert size < 4.1 * one_copy + 200_000  # weights, two averages of AdamW, moving average, headers


def wait_for_steps(folder: Path, steps: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while len(trace(folder)) < 4 * steps if (folder / "trace").exists() else True:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


def children(process: subprocess.Popen) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def start(folder: Path, *settings: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(folder, *settings, pause=0.2), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("who", ["first", "second"])
def test_a_rank_that_dies_stops_the_others_within_a_minute(strategy, who, tmp_path):
    process = start(tmp_path, *devices(2, strategy))
    wait_for_steps(tmp_path, 3, process)
    (child,) = children(process)
    killed = time.monotonic()
    os.kill(process.pid if who == "first" else child, signal.SIGKILL)
    while not gone(child) or process.poll() is None:
        assert time.monotonic() - killed < 60
        time.sleep(0.2)
    if who == "second":
        err = process.stderr.read()
        assert process.returncode == 3
        assert re.search(rf"training stopped: rank 1 \(process {child}\b.*(was killed by SIGKILL|has stopped)", err)


def test_sigterm_to_one_rank_stops_all_at_the_same_step_saved(tmp_path, one):
    process = start(tmp_path, *devices(2, "fsdp2"))
    wait_for_steps(tmp_path, 3, process)
    (child,) = children(process)
    os.kill(child, signal.SIGTERM)
    assert process.wait(60) == 0, process.stderr.read()  # traced_fit ends well; the command's exit code is another test
    saved = read_checkpoint(checkpoints_of(tmp_path / "run")[-1])["global_step"]
    assert 3 <= saved < STEPS
    traced(tmp_path, *devices(2, "ddp"))
    assert_same(trace(tmp_path), one)


def test_torchrun_gives_all_ranks_one_folder(tmp_path):
    """Two processes that somebody else has started."""
    from torch.distributed.elastic.utils.distributed import get_free_port

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={get_free_port()}"]
    settings = [*TINY, *devices(2, "fsdp2")]
    done = subprocess.run(
        [*torchrun, "-m", "t2x_core.cli.main", "fit", "quickstart", *settings],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs" / "quickstart").iterdir()
    assert read_checkpoint(checkpoints_of(run)[-1])["global_step"] == 2
    assert done.stdout.count("trained 2 steps") == 1


@pytest.mark.slow
def test_a_rank_that_says_nothing_any_more_stops_the_others(tmp_path):
    """Frozen, not dead: no connection breaks, and no process ends."""
    process = start(tmp_path, *devices(2, "ddp"))
    wait_for_steps(tmp_path, 3, process)
    (child,) = children(process)
    frozen = time.monotonic()
    os.kill(child, signal.SIGSTOP)
    assert process.wait(60) == 3
    assert time.monotonic() - frozen < 60
    assert f"rank 1 (process {child} on " in process.stderr.read()
    assert gone(child)  # it would hold the device
