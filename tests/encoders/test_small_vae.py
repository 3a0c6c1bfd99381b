"""The small VAE that comes along, against diffusers alone, and what it keeps of an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from t2x_core.encoders.autoencoder import Autoencoder
from t2x_core.encoders.encoder_config import AutoencoderConfig
from t2x_core.encoders.weights_config import WeightsConfig
from t2x_core.frozen import Codec
from t2x_core.rendering import to_uint8
from t2x_plugins.shapes.captions import full_caption_spec
from t2x_plugins.shapes.checker import check
from t2x_plugins.shapes.render import render
from t2x_plugins.shapes.scene import Scene, sample_scene

diffusers = pytest.importorskip("diffusers")
PLACE = WeightsConfig(package="t2x_plugins/shapes/small_vae")
LEAST_PSNR = 35.0
"""Decibels of held-out scenes on all backgrounds: 36.4 were measured."""


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec(Autoencoder(AutoencoderConfig(weights=PLACE)))


def scenes(count: int) -> tuple[list[Scene], Tensor]:
    """Held-out scenes, and their pixels (B, 3, 1, 64, 64)."""
    made = [sample_scene(5, i, "held_out") for i in range(count)]
    pixels = np.stack([render(scene, 64) for scene in made])
    return made, torch.from_numpy(pixels).permute(0, 3, 1, 2).unsqueeze(2).float() / 127.5 - 1


def test_it_is_small() -> None:
    folder = PLACE.fetch()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1_000_000
    assert (folder / "README.md").is_file()


@torch.no_grad()
def test_latents_and_pixels_are_those_of_diffusers(codec: Codec) -> None:
    vae = diffusers.AutoencoderKL.from_pretrained(PLACE.fetch(), low_cpu_mem_usage=False).float().eval()
    _, pixels = scenes(4)
    z = vae.encode(pixels[:, :, 0]).latent_dist.mean
    found = codec.encode(pixels, separate=False)
    wanted = (z - vae.config.shift_factor) * vae.config.scaling_factor
    torch.testing.assert_close(found[:, :, 0], wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(codec.decode(found, separate=False)[:, :, 0], vae.decode(z).sample, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_round_trip_keeps_the_scene(codec: Codec) -> None:
    made, pixels = scenes(24)
    latents = codec.encode(pixels, separate=False)
    back = codec.decode(latents, separate=False).clamp(-1, 1)
    psnr = 10 * (4 / (back - pixels).square().mean()).log10()
    assert psnr > LEAST_PSNR
    assert 0.6 < latents.std() < 1.4
    seen = [
        check(image, full_caption_spec(scene)) for image, scene in zip(to_uint8(back)[:, 0].numpy(), made, strict=True)
    ]
    for attribute in ("count", "colour", "size", "place", "background"):
        assert all(right[attribute] for right in seen), attribute
