"""Recipes of all three tasks with a tiny VAE and a tiny T5, and a cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.data.mixture import MixedData
from t2x_core.module import T2XModule
from tests.encoders.tiny_models import save_text_encoder, save_vae

IMAGE, VIDEO, MULTIVIEW = "text-to-image", "text-to-video", "text-to-multiview"
DATA = {
    IMAGE: "data: {images: {folder: images, size: 16, max_aspect_ratio: 1, crop: random, flip: 0.5, held_out: 0.2}}",
    VIDEO: "data: {moving-shapes: {size: 16, frames: 4, count: 12, val_count: 4}}",
    MULTIVIEW: "data: {turntables: {size: 16, views: 3, count: 6, val_count: 2}}",
}


def write_images(folder: Path, count: int = 16) -> None:
    """Images of noise with two captions each."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 256, (20, 28, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(f"a red circle of {i}\nthe small square on the left\n")


def write_recipe(folder: Path, task: str, cache: str = "{folder: cache, variants: 2}") -> Path:
    """A recipe with all that it needs, in a folder."""
    if task == IMAGE and not (folder / "images").exists():
        write_images(folder / "images")
    if not (folder / "vae").exists():
        save_vae(folder / "vae")
        save_text_encoder(folder / "t5")
    file = folder / "recipe.yaml"
    file.write_text(f"""
tasks:
  {task}: {{{DATA[task]}}}
codec: {{name: autoencoder, weights: {{folder: vae}}}}
text_encoders:
  t5: {{name: transformers, weights: {{folder: t5}}, max_tokens: 20}}
cache: {cache}
backbone: {{width: 32, depth: 1, heads: 2, patch_size: 2, window: auto}}
diffusion: {{sampler: {{steps: 2}}}}
optimizer: {{warmup_steps: 2}}
trainer: {{max_steps: 50, global_batch: 4, threads: 1, accelerator: cpu, precision: 32-true, workers: 0}}
logging: {{log_every: 1, validate_every: 4, sample_every: 4, checkpoint_every: 4, samples: 2, score_samples: 0,
  final_score_samples: 0, runs_dir: {folder / "runs"}}}
""")
    return file


def opened(recipe: Path, overrides: Sequence[str] = ()) -> tuple[T2XModule, MixedData]:
    """Module and data of a recipe, ready to train."""
    assembly = load_assembly(str(recipe), list(overrides))
    module = build_module(assembly)
    data = build_data(assembly, module)
    data.check()
    return module, data


def losses(recipe: Path, overrides: Sequence[str] = (), steps: int = 4) -> list[float]:
    """The losses of a plain loop over the recipe's batches."""
    module, data = opened(recipe, overrides)
    optimizer = module.configure_optimizers()["optimizer"]
    found = []
    for batch, _ in zip(data.train_loader(0, 1, lambda: 0), range(steps), strict=False):
        loss = module.training_step(batch, 0)["loss"]
        found.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in module.trainable()], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return found
