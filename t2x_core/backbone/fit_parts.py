"""The conditioning of one task for a backbone that is built for several."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from t2x_core.types import Conditioning, ConditioningDims


def fit_parts(conditioning: Conditioning, dims: ConditioningDims, latents: Tensor) -> Conditioning:
    """The parts with the sizes `dims`.

    What is less wide is filled up with zeros, so that it uses the first rows of its projection. An absent part stays
    away, with its layers; only `concat` becomes zeros, since the patch embedding is one matrix for it and the latents.

    Raises:
        ValueError: a part is wider than `dims`, of other samples or frames, or `concat` has not the latents' shape.
    """
    fitted: dict[str, Any] = {}
    for part, axis in (("text", -1), ("vector", -1), ("frames", -1), ("concat", 1)):
        value, size = getattr(conditioning, part), getattr(dims, part)
        found = 0 if value is None else value.shape[axis]
        if value is not None:
            _check(part, value, latents)
        if found > size:
            raise ValueError(f"conditioning.{part} has {found} channels, the backbone was built for {size}")
        if found < size and (value is not None or part == "concat"):
            like = latents if value is None else value
            shape = list(like.shape)
            shape[axis] = size - found
            zeros = like.new_zeros(shape)
            fitted[part] = zeros if value is None else torch.cat((value, zeros), axis)
    mask = conditioning.text_mask
    if mask is not None and (conditioning.text is None or mask.shape != conditioning.text.shape[:2]):
        raise ValueError(f"conditioning.text_mask is {tuple(mask.shape)}, not (B, T) of conditioning.text")
    return replace(conditioning, **fitted) if fitted else conditioning


def _check(part: str, value: Tensor, latents: Tensor) -> None:
    batch, frames = len(latents), latents.shape[2]
    axes = {"text": 3, "vector": 2, "frames": 3, "concat": 5}[part]
    if value.ndim != axes or len(value) != batch:
        raise ValueError(f"conditioning.{part} is {tuple(value.shape)}: not {axes} axes, of a batch of {batch}")
    if part == "frames" and value.shape[1] not in (1, frames):
        raise ValueError(f"conditioning.frames has {value.shape[1]} entries, for latents of {frames} frames")
    if part == "concat" and value.shape[2:] != latents.shape[2:]:
        raise ValueError(
            f"conditioning.concat is {tuple(value.shape[2:])} (F', H', W'), the latents are {tuple(latents.shape[2:])}"
        )
