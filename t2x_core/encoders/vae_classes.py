"""The VAE classes of diffusers that can be a codec, and what their config says of shapes. Without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Options = Mapping[str, Any]


@dataclass(frozen=True)
class VAEClass:
    """A class of diffusers, and where its config has factors and channels."""

    name: str
    spatial_factor: Callable[[Options], int]
    """Pixels of height and width for one latent cell."""
    video: bool = False
    """Whether it takes (B, C, F, H, W); else (B, C, H, W)."""
    frame_factor: Callable[[Options], int] = lambda options: 1
    """Frames for one frame of the latents, after the first."""
    channels: Callable[[Options], int] = lambda options: int(options["latent_channels"])
    packed: bool = False
    """Whether 2 × 2 latent cells are one cell of four times the channels, normalised by a batch norm (FLUX.2)."""


def _halvings(key: str, default: int = 4) -> Callable[[Options], int]:
    """2 for each level of blocks after the first; `default`: levels where the config is silent."""
    return lambda options: 2 ** (len(options.get(key) or range(default)) - 1)


def _value(key: str, default: int) -> Callable[[Options], int]:
    return lambda options: int(options.get(key) or default)


def _ltx(ratio: str, patch: str, default: int) -> Callable[[Options], int]:
    def factor(options: Options) -> int:
        if options.get(ratio):
            return int(options[ratio])
        scalings = options.get("spatio_temporal_scaling") or (True,) * 3 + (False,)
        return int(options.get(patch) or default) * 2 ** sum(map(bool, scalings))

    return factor


VAE_CLASSES: dict[str, VAEClass] = {
    one.name: one
    for one in (
        VAEClass("AutoencoderKL", _halvings("block_out_channels", 1)),
        VAEClass("AutoencoderTiny", _halvings("encoder_block_out_channels")),
        VAEClass("AutoencoderDC", _halvings("encoder_block_out_channels", 6)),
        VAEClass(
            "AutoencoderKLFlux2",
            lambda options: 2 * _halvings("block_out_channels")(options),
            channels=lambda options: 4 * int(options.get("latent_channels") or 32),
            packed=True,
        ),
        VAEClass(
            "AutoencoderKLCogVideoX",
            _halvings("block_out_channels"),
            video=True,
            frame_factor=_value("temporal_compression_ratio", 4),
        ),
        VAEClass(
            "AutoencoderKLWan",
            _value("scale_factor_spatial", 8),
            video=True,
            frame_factor=_value("scale_factor_temporal", 4),
            channels=lambda options: int(options.get("z_dim") or 16),
        ),
        VAEClass(
            "AutoencoderKLHunyuanVideo",
            _value("spatial_compression_ratio", 8),
            video=True,
            frame_factor=_value("temporal_compression_ratio", 4),
        ),
        VAEClass(
            "AutoencoderKLLTXVideo",
            _ltx("spatial_compression_ratio", "patch_size", 4),
            video=True,
            frame_factor=_ltx("temporal_compression_ratio", "patch_size_t", 1),
        ),
        VAEClass(  # the nearest to the causal VAE of Open-Sora-Plan: 8 × 8 × 4, the first frame by itself
            "AutoencoderKLMagvit",
            _halvings("block_out_channels"),
            video=True,
            frame_factor=lambda options: 2 ** (len(options.get("block_out_channels") or range(4)) - 2),
        ),
    )
}
"""Class name, as in `_class_name` of config.json → what is known of it."""
