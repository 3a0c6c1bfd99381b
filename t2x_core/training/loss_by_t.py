"""Losses by range of the time t, summed exactly and over ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

BINS = 10
"""The loss is also reported for this many equal ranges of t."""


def sums_by_t(losses: Sequence[Tensor], times: Sequence[Tensor], device: torch.device) -> Tensor:
    """From losses and times, (B,) each: the sum of the losses and the number of samples of each bin of t, (2, BINS).

    In float64, so that the order of the samples, and how ranks share them, changes nothing that shows. Losses that are
    not finite are left out: the guard reports them.
    """
    sums = torch.zeros(2, BINS, dtype=torch.float64, device=device)
    if losses:
        values = torch.cat(list(losses)).double()
        index = (torch.cat(list(times)) * BINS).long().clamp(max=BINS - 1)
        finite = values.isfinite()
        sums.index_add_(1, index, torch.stack([values.where(finite, 0), finite.double()]))
    return sums


def figures(by_task: Mapping[str, Sequence[Sequence[float]]], total: str, prefix: str = "") -> dict[str, float]:
    """Mean losses by tag, from the sums and counts of each task.

    `<prefix><total>`; with several tasks `<prefix>loss/<task>`; `<prefix>loss_by_t/<task>/0.0-0.1` … of the bins that
    have samples.
    """
    found: dict[str, float] = {}
    for task, (sums, counts) in by_task.items():
        if len(by_task) > 1 and any(counts):
            found[f"{prefix}loss/{task}"] = sum(sums) / sum(counts)
        for i in range(BINS):
            if counts[i]:
                found[f"{prefix}loss_by_t/{task}/{i / BINS:.1f}-{(i + 1) / BINS:.1f}"] = sums[i] / counts[i]
    loss = math.fsum(value for sums, _ in by_task.values() for value in sums)
    samples = math.fsum(count for _, counts in by_task.values() for count in counts)
    return {f"{prefix}{total}": loss / samples if samples else math.nan, **found}
