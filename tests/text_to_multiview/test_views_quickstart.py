"""The quickstart of text-to-multiview as shipped, trained whole and scored: minutes (`pytest -m slow`)."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from t2x_core.assembly import build_data
from t2x_core.generation import T2XPipeline
from t2x_core.runs import find_run
from t2x_core.sampling import sample

NAME = "text-to-multiview"


@pytest.mark.slow
def test_the_views_of_the_quickstart_agree_with_caption_and_cameras(tmp_path):
    command = [sys.executable, "-m", "t2x_core.cli.main", "fit", "text_to_multiview/quickstart"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    minutes, seconds = map(int, re.search(r"trained \d+ steps in (\d+):(\d+)", done.stdout).groups())
    print(f"{minutes}:{seconds:02d} min")

    pipeline = T2XPipeline.from_pretrained(find_run("text_to_multiview/quickstart", tmp_path / "runs"), device="cpu")
    task = pipeline.assembly.task()
    conditions = build_data(pipeline.assembly, pipeline.module).modules[NAME].val_conditions(128)
    settings = pipeline.assembly.recipe.diffusion.sampler
    pixels = sample(pipeline.module, conditions, range(1000, 1128), task.bucket(), settings, batch_size=16)
    metric = task.metrics()
    metric.update(pixels, conditions)
    score = metric.compute()
    print(score)
    assert score["all"] >= 0.8
