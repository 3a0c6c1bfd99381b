"""Computing once what stays the same over the steps of a sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from t2x_core.types import Conditioning

T = TypeVar("T")


class ConditioningCache:
    """Keeps what a backbone computes from the conditioning alone, over the steps of one sampler.

    The text and its keys and values in each block do not change from step to step: the first call of `PTDiT.forward`
    computes them, later ones find them here. A cache serves one `Conditioning` object and one shape of latents, with
    weights that stay as they are: anything else is an error.
    """

    def __init__(self) -> None:
        self._kept: dict[Any, Any] = {}
        self._conditioning: Conditioning | None = None
        self._shape: torch.Size | None = None

    def bind(self, conditioning: Conditioning, shape: torch.Size) -> None:
        """ValueError if the cache was made for another conditioning object or another shape of latents."""
        if self._conditioning is None:
            self._conditioning, self._shape = conditioning, shape
        if conditioning is not self._conditioning or shape != self._shape:
            raise ValueError("a ConditioningCache serves one conditioning and one shape of latents: make a new one")

    def __call__(self, compute: Callable[..., T], *arguments: Any) -> T:
        """`compute(*arguments)`, from the first call with this `compute`."""
        if compute not in self._kept:
            self._kept[compute] = compute(*arguments)
        return self._kept[compute]


def no_cache(compute: Callable[..., T], *arguments: Any) -> T:
    """`compute(*arguments)`, each time: what stands in for a `ConditioningCache` where nothing is kept."""
    return compute(*arguments)
