"""The quickstart as shipped, trained whole and scored: minutes, so behind a marker (`pytest -m slow`)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from t2x_core.assembly import build_data
from t2x_core.generation import T2XPipeline
from t2x_core.runs import find_run
from t2x_core.sampling import sample


def learnt(folder: Path, recipe: str, *overrides: str) -> float:
    """Trains a recipe in `folder` as shipped; the share of held-out captions right in all attributes."""
    command = [sys.executable, "-m", "t2x_core.cli.main", "fit", recipe, *overrides]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    minutes, seconds = map(int, re.search(r"trained \d+ steps in (\d+):(\d+)", done.stdout).groups())
    print(f"{minutes}:{seconds:02d} min")

    pipeline = T2XPipeline.from_pretrained(find_run(recipe, folder / "runs"), device="cpu")
    task = pipeline.assembly.task()
    data = build_data(pipeline.assembly, pipeline.module).modules["text-to-image"]
    conditions = data.val_conditions(298)  # each held-out combination twice, in different words
    settings = pipeline.assembly.recipe.diffusion.sampler
    pixels = sample(pipeline.module, conditions, range(1000, 1298), task.bucket(), settings, batch_size=32)
    metric = task.metrics()
    metric.update(pixels, conditions)
    score = metric.compute()
    print(score)
    return score["all"]


@pytest.mark.slow
def test_the_quickstart_learns_its_task(tmp_path):
    assert learnt(tmp_path, "quickstart") >= 0.8


@pytest.mark.slow
def test_the_quickstart_in_latents_learns_its_task(tmp_path):
    recipe = "text_to_image/latent_quickstart"
    command = [sys.executable, "-m", "t2x_core.cli.main", "cache", recipe, "cache.folder=latents"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert learnt(tmp_path, recipe, "cache.folder=latents") >= 0.8
