"""One run, killed twenty times at random moments, is the uninterrupted one to the last bit."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
import torch

from t2x_core.checkpoint import materialize, open_checkpoint
from tests.conftest import TINY
from tests.training.test_resume import lines, run_through, start

KILLS, STEPS = 20, 200
SETTINGS = [
    *TINY,
    f"trainer.max_steps={STEPS}",
    "logging.checkpoint_every=3",
    "logging.validate_every=7",
    "logging.sample_every=11",
    "trainer.workers=1",
]


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    expected = run_through(tmp_path / "whole", SETTINGS)
    chance, folder = random.Random(0), tmp_path / "killed"
    folder.mkdir()
    kills, reached = 0, []
    while kills < KILLS:
        process = start(folder, 0.05, SETTINGS)
        before = len(lines(folder))
        wait = chance.uniform(0, 1.5)
        while len(lines(folder)) == before and process.poll() is None and chance.random() > 0.0003:
            time.sleep(0.02)  # most kills come while it trains, some while it starts
        time.sleep(wait)
        assert process.poll() is None, "the run is over before it was killed often enough"
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        reached.append(lines(folder)[-1]["step"] if lines(folder) else -1)
    run_through(folder, SETTINGS)

    found = lines(folder)
    assert {line["step"] for line in found} == set(range(STEPS))
    for line in found:
        assert line == expected[line["step"]]
    assert len(set(reached)) > KILLS / 3  # it was killed at many places
    one, other = (materialize(open_checkpoint(path / "run", "last")[1]) for path in (tmp_path / "whole", folder))
    for part in ("state_dict", "optimizer_states", "ema", "lr_schedulers", "guard"):
        assert same(one[part], other[part]), part
