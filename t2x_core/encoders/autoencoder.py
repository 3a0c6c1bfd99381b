"""Pretrained VAEs of diffusers as latent codecs.

Latents are brought to about mean 0 and variance 1 as the pipelines of diffusers do it: by the scaling and shift factors
of the model's config, by its mean and deviation for each channel, or by its batch norm (FLUX.2).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from t2x_core.encoders.encoder_config import AutoencoderConfig, error_key
from t2x_core.errors import UserError
from t2x_core.interfaces import Component, LatentCodec
from t2x_core.plugins import hookimpl

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Affine:
    """z = (latent - shift) · scale; each a number, or (C, 1, 1) or (C, 1, 1, 1)."""

    shift: Tensor
    scale: Tensor


class Autoencoder(LatentCodec):
    """A VAE of diffusers. Encoding takes the mode of the posterior, so it is repeatable.

    `outline`: without weights, its parameters on the meta device.
    """

    def __init__(self, config: AutoencoderConfig, *, outline: bool = False) -> None:
        super().__init__()
        with error_key("weights"):
            folder = None if outline else config.weights.fetch()
        kind = config.vae_class()
        if kind is None:
            raise UserError(f"what kind of VAE {config.weights} is, is not known before it is fetched", key="weights")
        self.origin = str(config.weights)
        self.kind, self.chunk = kind, config.chunk
        dtype = DTYPES[config.dtype]
        self.vae = _outline(kind.name, config, dtype) if outline else _load(kind.name, folder, dtype)
        self.tiled = config.tiling
        if config.tiling:
            self._enable("enable_tiling", "tiling")
        if config.slicing:
            self._enable("enable_slicing", "slicing")
        options = self.vae.config
        plain = {key: value for key, value in dict(options).items() if not key.startswith("_")}
        self.settings = json.dumps(plain, sort_keys=True, default=str)
        self.channels = kind.channels(options)
        self.spatial_factor, self.frame_factor = kind.spatial_factor(options), kind.frame_factor(options)
        self.requires_grad_(False)
        self._small = _small(config, self) if config.preview is not None and not outline else ()

    def encode(self, pixels: Tensor) -> Tensor:
        latents = self._by_chunk(self._encode, pixels)
        affine = self._affine(latents)
        return (latents - affine.shift) * affine.scale

    def decode(self, latents: Tensor) -> Tensor:
        affine = self._affine(latents)
        return self._by_chunk(self._decode, latents / affine.scale + affine.shift)

    def preview(self, latents: Tensor) -> Tensor:
        for small in self._small:
            return small.to(latents.device).decode(latents)
        return self.decode(latents)

    def save_memory(self) -> bool:
        before = (self.chunk, self.tiled)
        self.chunk = 1
        if hasattr(self.vae, "enable_tiling"):
            self._enable("enable_tiling", "tiling")
            self.tiled = True
        return (self.chunk, self.tiled) != before

    def _by_chunk(self, code: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`code` of `chunk` samples (B, C, F, H, W) at once; of `chunk` frames, for a VAE of images."""
        if self.kind.video:
            return torch.cat([code(part) for part in x.split(self.chunk)])
        frames = x.transpose(1, 2).flatten(0, 1)  # (B·F, C, H, W)
        coded = torch.cat([code(part) for part in frames.split(self.chunk)])
        return coded.unflatten(0, (len(x), -1)).transpose(1, 2)

    def _encode(self, x: Tensor) -> Tensor:
        found = self.vae.encode(x)
        if hasattr(found, "latent_dist"):
            latents = found.latent_dist.mode()
        else:  # AutoencoderTiny, AutoencoderDC
            latents = found.latents if hasattr(found, "latents") else found.latent
        return pixel_unshuffle(latents, 2) if self.kind.packed else latents

    def _decode(self, z: Tensor) -> Tensor:
        z = pixel_shuffle(z, 2) if self.kind.packed else z
        if self.vae.config.get("timestep_conditioning"):  # LTX-Video 0.9.1 and later: the decoder denoises, too
            return self.vae.decode(z, torch.zeros(len(z), device=z.device, dtype=z.dtype)).sample
        return self.vae.decode(z).sample

    def _affine(self, like: Tensor) -> Affine:
        options, ones = self.vae.config, (1,) * (like.ndim - 2)

        def channels(values: Any) -> Tensor:
            return torch.as_tensor(values, dtype=like.dtype, device=like.device).view(-1, *ones)

        factor = channels([options.get("scaling_factor") or 1.0])
        if self.kind.packed:
            norm = self.vae.bn
            return Affine(channels(norm.running_mean), 1 / channels(norm.running_var + options.batch_norm_eps).sqrt())
        buffers = dict(self.vae.named_buffers(recurse=False))  # LTX-Video has mean and deviation there
        mean, std = (buffers.get(name, options.get(name)) for name in ("latents_mean", "latents_std"))
        if mean is not None and std is not None:
            return Affine(channels(mean), factor / channels(std))
        return Affine(channels([options.get("shift_factor") or 0.0]), factor)

    def _enable(self, method: str, key: str) -> None:
        if not hasattr(self.vae, method):
            raise UserError(f"{self.kind.name} has no {key}", key=key, hint="set it to false")
        getattr(self.vae, method)()


def _small(config: AutoencoderConfig, large: Autoencoder) -> tuple[Autoencoder]:
    """The VAE for previews; in a tuple, so that it is no part of the codec, whose hash it does not change."""
    try:
        small = Autoencoder(config.small())
    except UserError as error:
        error.key = (error.key or "").replace("weights", "preview", 1) or "preview"
        raise
    if small.channels != large.channels:
        said = f"{config.preview} has latents of {small.channels} channels, and {config.weights} of {large.channels}"
        raise UserError(said, key="preview", hint="name a small VAE of the same latents, or null")
    return (small.eval(),)


def _class(name: str) -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise UserError("pretrained VAEs need diffusers", hint="pip install 't2x[pretrained]'") from error
    if not hasattr(diffusers, name):
        raise UserError(f"the installed diffusers has no {name}", hint="pip install -U diffusers")
    return getattr(diffusers, name)


def _outline(name: str, config: AutoencoderConfig, dtype: torch.dtype) -> Any:
    """A VAE of this configuration without weights, on the meta device."""
    with torch.device("meta"):
        vae = _class(name).from_config(config.weights.config())
    return torch.nn.Module.to(vae, dtype)


def _load(name: str, folder: Any, dtype: torch.dtype) -> Any:
    """The VAE in a folder, from safetensors alone."""
    try:
        return _class(name).from_pretrained(
            str(folder), torch_dtype=dtype, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"the VAE in {folder} cannot be loaded: {first}", key="weights") from error


@hookimpl
def t2x_register() -> Sequence[Component]:
    return [Component("autoencoder", AutoencoderConfig, Autoencoder, partial(Autoencoder, outline=True))]
