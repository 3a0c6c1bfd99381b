"""What several tests share: a recipe that trains in seconds."""

from __future__ import annotations

import pytest
import torch

from t2x_core.assembly import Assembly, load_assembly

TINY = (
    "tasks.text-to-image.data.shapes.size=16",
    "tasks.text-to-image.data.shapes.val_count=6",
    "backbone.width=32",
    "backbone.depth=2",
    "backbone.heads=2",
    "text_encoder.dim=16",
    "text_encoder.depth=1",
    "text_encoder.heads=2",
    "diffusion.sampler.steps=2",
    "trainer.max_steps=2",
    "trainer.global_batch=4",
    "trainer.threads=1",
    "optimizer.warmup_steps=2",
    "watch.log_every=1",
    "watch.validate_every=2",
    "watch.sample_every=2",
    "watch.samples=2",
    "watch.score_samples=2",
    "watch.final_score_samples=2",
    "watch.checkpoint_every=2",
)
"""Overrides of `quickstart`."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def tiny() -> Assembly:
    """The tiny text-to-image recipe."""
    return load_assembly("quickstart", TINY)
