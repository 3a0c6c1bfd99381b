"""Training on shards that is killed, and goes on with another number of ranks: the same samples at every step."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import IMAGES, SHAPES, TINY_IMAGES
from tests.data.shard_set import images, write
from tests.training.test_ranks import SCRIPT, assert_same, devices, trace

STEPS = 12


def start(folder: Path, settings: list[str], pause: float) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    command = ["python", str(SCRIPT), str(folder / "run"), str(folder / "trace"), str(pause), *settings]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder.parent / "cache")}
    return subprocess.Popen(command, env=environment, start_new_session=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_killed_on_two_ranks_and_resumed_on_one_it_takes_the_samples_of_a_run_that_nothing_stopped(tmp_path, kind):
    place = write(kind, tmp_path / "data", images(37, ((40, 40), (52, 30))))["shards"]
    data = [f"{SHAPES}=null", f"{IMAGES}.shards={place}", f"{IMAGES}.block=5", *TINY_IMAGES]
    often = ["trainer.workers=1", f"trainer.max_steps={STEPS}", "logging.checkpoint_every=3", "logging.sample_every=0"]
    assert start(tmp_path / "whole", [*data, *often], 0).wait(300) == 0
    expected = trace(tmp_path / "whole")
    assert len(expected) == 4 * STEPS
    assert len({tuple(key[1:3]) for key, _ in expected.values()}) > 20  # most of the images

    killed = start(tmp_path / "two", [*data, *often, *devices(2, "ddp")], 0.5)
    file, deadline = tmp_path / "two" / "trace", time.monotonic() + 300
    while not file.exists() or len(file.read_text().splitlines()) < 2 * 5:
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)  # it and all that it has started
    killed.wait()
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if line.endswith("\n")))
    before = trace(tmp_path / "two")
    assert len(before) < len(expected)
    assert start(tmp_path / "two", [*data, *often], 0).wait(300) == 0
    found = trace(tmp_path / "two")
    assert_same(found, expected)
    assert {where: before[where][0] for where in before} == {where: found[where][0] for where in before}
