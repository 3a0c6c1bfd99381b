"""`t2x fit` on one rank and on two: the same losses with the cache, without it, and with half of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.cache.recipes import IMAGE, MULTIVIEW, VIDEO, write_recipe

pytest.importorskip("diffusers")
pytest.importorskip("transformers")


def t2x(*arguments: str | Path) -> None:
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "t2x_core.cli.main", *map(str, arguments)], env=environ, check=True)


def figures(run: Path, tag: str) -> dict[int, float]:
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("task", [IMAGE, VIDEO, MULTIVIEW])
def test_fifty_steps(task, ranks, tmp_path):
    recipe = write_recipe(tmp_path, task)
    rarely = [f"logging.{what}_every={n}" for what, n in (("validate", 25), ("sample", 50), ("checkpoint", 50))]
    devices = f"trainer.devices={ranks}"
    t2x("fit", recipe, devices, *rarely, "cache.folder=null", "--folder", tmp_path / "without")
    t2x("cache", recipe, "--part", "1/2")
    t2x("fit", recipe, devices, *rarely, "--folder", tmp_path / "half")
    t2x("cache", recipe)
    t2x("fit", recipe, devices, *rarely, "--folder", tmp_path / "cached")
    without, half, cached = (figures(tmp_path / name, "loss/total") for name in ("without", "half", "cached"))
    assert len(without) == 50
    assert cached == pytest.approx(without, abs=1e-5)
    assert half == pytest.approx(without, abs=1e-5)
    for tag in ("cache/missed/latents", "cache/missed/t5"):
        assert set(figures(tmp_path / "cached", tag).values()) == {0.0}
        assert figures(tmp_path / "half", tag)[25] > 0
    assert "not in the cache, and encoded while training" in (tmp_path / "half" / "log.txt").read_text()
    assert "is loaded: a text is not in the cache" not in (tmp_path / "cached" / "log.txt").read_text()
