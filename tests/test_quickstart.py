"""The quickstart as shipped, trained whole and scored: minutes, so behind a marker (`pytest -m slow`)."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from t2x_core.assembly import build_data
from t2x_core.generation import T2XPipeline, sample
from t2x_core.runs import find_run


@pytest.mark.slow
def test_the_quickstart_learns_its_task(tmp_path):
    command = [sys.executable, "-m", "t2x_core.cli.main", "fit", "quickstart"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    minutes, seconds = map(int, re.search(r"trained \d+ steps in (\d+):(\d+)", done.stdout).groups())
    print(f"{minutes}:{seconds:02d} min")

    pipeline = T2XPipeline.from_pretrained(find_run("quickstart", tmp_path / "runs"), device="cpu")
    task = pipeline.assembly.task()
    data = build_data(pipeline.assembly, pipeline.module).modules["text-to-image"]
    conditions = data.val_conditions(298)  # each held-out combination twice, in different words
    settings = pipeline.assembly.recipe.diffusion.sampler
    pixels = sample(pipeline.module, conditions, range(1000, 1298), task.bucket(), settings, batch_size=32)
    metric = task.metrics()
    metric.update(pixels, conditions)
    score = metric.compute()
    print(score)
    assert score["all"] >= 0.8
