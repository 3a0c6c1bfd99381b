"""Samples → a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from t2x_core.types import Batch, Sample


def stack(samples: Sequence[Sample]) -> Batch:
    """Samples of one bucket, stacked along a new first axis."""
    first = samples[0]
    return Batch(
        task=first.key.task,
        captions=tuple(s.caption for s in samples),
        keys=tuple(s.key for s in samples),
        pixels=torch.stack([s.pixels for s in samples]),
        extra={name: torch.stack([s.extra[name] for s in samples]) for name in first.extra},
        controls={name: torch.stack([s.controls[name] for s in samples]) for name in first.controls},
    )
