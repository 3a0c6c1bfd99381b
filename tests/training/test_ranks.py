"""Two real processes with DDP over gloo: the same samples and losses as one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY

SCRIPT = Path(__file__).with_name("traced_fit.py")


def traced(folder: Path, *settings: str) -> dict[tuple[int, int], tuple[list, float]]:
    """(step, slot) → the sample's key and loss."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, SCRIPT, folder / "run", folder / "trace", "0", *TINY, "trainer.max_steps=20", *settings],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = {}
    for line in map(json.loads, (folder / "trace").read_text().splitlines()):
        for key, loss in zip(line["keys"], line["losses"], strict=True):
            found[line["step"], key[4]] = key, float.fromhex(loss)
    return found


def test_two_ranks_train_on_the_same_samples_with_the_same_losses(tmp_path):
    one = traced(tmp_path / "one")
    two = traced(tmp_path / "two", "trainer.devices=2", "trainer.strategy=ddp")
    assert one.keys() == two.keys()
    assert len(one) == 20 * 4
    for where, (key, loss) in one.items():
        assert two[where][0] == key
        assert two[where][1] == pytest.approx(loss, abs=1e-5)
    (run,) = (tmp_path / "two").glob("run/tensorboard/events*")  # the first rank alone writes
    assert run.stat().st_size
