"""What a checker finds of single samples, put together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Verdict = Mapping[str, bool]
"""Attribute → whether it is as the caption says; empty: the caption is of another world."""


def by_name(verdicts: Sequence[Verdict]) -> dict[str, Tensor]:
    """Attribute → 1 or 0 for each sample, NaN where its caption does not name it."""
    names = dict.fromkeys(name for verdict in verdicts for name in verdict)
    return {name: torch.tensor([float(v.get(name, math.nan)) for v in verdicts]) for name in names}


def shares(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Attribute → share of the samples that are right, of those whose caption names it."""
    return {name: values.nanmean(dtype=torch.float64).item() for name, values in by_name(verdicts).items()}
