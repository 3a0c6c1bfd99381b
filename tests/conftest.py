"""What several tests share: a recipe that trains in seconds."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from t2x_core.assembly import Assembly, build_module, load_assembly
from t2x_core.generation import T2XPipeline

SHAPES, IMAGES = "tasks.text-to-image.data.shapes", "tasks.text-to-image.data.images"
TINY_MODEL = (
    "backbone.preset=null",
    "backbone.width=32",
    "backbone.depth=2",
    "backbone.heads=2",
    "text_encoders.bytes.dim=16",
    "text_encoders.bytes.depth=1",
    "text_encoders.bytes.heads=2",
    "diffusion.sampler.steps=2",
    "trainer.max_steps=2",
    "trainer.global_batch=4",
    "trainer.threads=1",
    "optimizer.warmup_steps=2",
    "logging.log_every=1",
    "logging.validate_every=2",
    "logging.sample_every=2",
    "logging.samples=2",
    "logging.score_samples=2",
    "logging.final_score_samples=2",
    "logging.checkpoint_every=2",
)
TINY = (f"{SHAPES}.size=16", f"{SHAPES}.val_count=6", *TINY_MODEL)
"""Overrides of recipes on the shapes world."""
TINY_IMAGES = (f"{IMAGES}.size=32", "trainer.accelerator=cpu", "trainer.precision=32-true", *TINY_MODEL)
"""Overrides of `text_to_image/folder`, which also wants the folder."""
TINY_LATENT = tuple(setting for setting in TINY if not setting.startswith("text_encoders"))
"""Overrides of `text_to_image/latent_quickstart`."""
TINY_EMOJI = tuple(setting for setting in TINY_IMAGES if not setting.startswith("text_encoders"))
"""Overrides of `text_to_image/emoji`, which also wants the folder."""
TURNTABLES, OBJECTS = "tasks.text-to-multiview.data.turntables", "tasks.text-to-multiview.data.objects"
CPU = ("trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.workers=0")
TINY_VIEWS = ("backbone.patch_size=4", "backbone.window=auto", *CPU, *TINY_MODEL)
TINY_TURNTABLES = (f"{TURNTABLES}.size=16", f"{TURNTABLES}.views=3", f"{TURNTABLES}.val_count=6", *TINY_VIEWS)
"""Overrides of recipes on turntables of solids."""
TINY_OBJECTS = (f"{OBJECTS}.size=16", f"{OBJECTS}.views=4", *TINY_VIEWS)
"""Overrides of recipes on objects of one's own, which also want the folder."""

MOVING, CLIPS = "tasks.text-to-video.data.moving-shapes", "tasks.text-to-video.data.clips"
TINY_MOVING = (f"{MOVING}.size=16", f"{MOVING}.frames=4", f"{MOVING}.val_count=6", *TINY_VIEWS)
"""Overrides of recipes on moving shapes."""
TINY_CLIPS = (f"{CLIPS}.size=16", f"{CLIPS}.frames=4", *TINY_VIEWS)
"""Overrides of recipes on clips of one's own, which also want the folder."""

TINY_JOINT = (
    *TINY_VIEWS,
    *("trainer.tokens_per_step=null", *(f"{data}.val_count=6" for data in (SHAPES, MOVING, TURNTABLES))),
)
"""Overrides of recipes of all three tasks."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """`caplog` sees the log, whatever commands in this process took it for themselves, or quietened it, before."""
    log = logging.getLogger("t2x")
    log.setLevel(logging.NOTSET)
    monkeypatch.setattr(log, "propagate", True)


@pytest.fixture
def tiny() -> Assembly:
    """The tiny text-to-image recipe."""
    return load_assembly("quickstart", TINY)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written to the user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path.with_name(f"{tmp_path.name}_cache")))


def random_pipeline(recipe: str = "quickstart", overrides: tuple[str, ...] = TINY) -> T2XPipeline:
    """An untrained model, the weights of which are all random: what is zero at first would hide much."""
    assembly = load_assembly(recipe, overrides)
    torch.manual_seed(0)
    module = build_module(assembly)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return T2XPipeline(assembly, module)
