"""Samples → a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from t2x_core.types import Batch, Sample


def stack(samples: Sequence[Sample]) -> Batch:
    """Samples of one bucket, stacked along a new first axis.

    Where some have pixels and some have latents from the cache, the batch has both (`Batch.unencoded`).
    """
    first = samples[0]
    cached = next((s for s in samples if s.latents is not None), None)
    fresh = [s for s in samples if s.latents is None]
    given = {} if cached is None else cached.encoded_controls
    both = bool(fresh) and cached is not None
    controls = {}
    for name in (fresh or samples)[0].controls:
        controls[name] = torch.stack([s.controls[name] for s in (fresh if name in given else samples)])
    return Batch(
        task=first.key.task,
        captions=tuple(s.caption for s in samples),
        keys=tuple(s.key for s in samples),
        pixels=torch.stack([s.pixels for s in fresh if s.pixels is not None]) if fresh else None,
        extra={name: torch.stack([s.extra[name] for s in samples]) for name in first.extra},
        controls=controls,
        latents=None if cached is None else _filled([s.latents for s in samples]),
        encoded_controls={name: _filled([s.encoded_controls.get(name) for s in samples]) for name in given},
        unencoded=torch.tensor([i for i, s in enumerate(samples) if s.latents is None]) if both else None,
        shape=first.shape,
    )


def _filled(parts: Sequence[Tensor | None]) -> Tensor:
    """Tensors of one shape, stacked, with zeros for those that are not there."""
    like = next(part for part in parts if part is not None)
    return torch.stack([torch.zeros_like(like) if part is None else part for part in parts])
