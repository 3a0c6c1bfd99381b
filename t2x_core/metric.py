"""Running scores of samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from t2x_core.types import Batch


class Metric(Protocol):
    """A running score of samples, as in torchmetrics."""

    def update(self, samples: Tensor, conditions: Batch) -> None:
        """Takes samples (B, 3, F, H, W) in [-1, 1] and what they were sampled from; a part of all, on the CPU."""

    def compute(self) -> Mapping[str, Any]:
        """Name → value of all that was taken; empty: unknown."""


class MeanScore:
    """The metric of a function that scores samples one by one: the mean of each of its figures."""

    def __init__(self, score: Callable[[Tensor, Batch], Mapping[str, Tensor] | None]) -> None:
        self.score = score
        self._sums: dict[str, Tensor] = {}

    def update(self, samples: Tensor, conditions: Batch) -> None:
        for name, values in (self.score(samples, conditions) or {}).items():
            if values.shape != (len(samples),):
                raise ValueError(f"score {name} is {tuple(values.shape)}, not one value for each of {len(samples)}")
            known = ~values.isnan()
            added = torch.stack([values.double().where(known, 0).sum(), known.double().sum()]).cpu()
            self._sums[name] = self._sums.get(name, 0) + added

    def compute(self) -> dict[str, float]:
        return {name: (total / count).item() for name, (total, count) in self._sums.items() if count}
