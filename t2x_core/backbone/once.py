"""Computing once what stays the same from call to call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Once:
    """Keeps what a backbone computes from the conditioning alone, for calls with the same conditioning.

    Over the steps of a sampler the text and its keys and values in each block do not change: the first call of
    `PTDiT.forward` computes them, later ones find them here. Other conditioning or other weights want a new one.
    """

    def __init__(self) -> None:
        self._kept: dict[Any, Any] = {}

    def __call__(self, compute: Callable[..., T], *arguments: Any) -> T:
        """`compute(*arguments)`, from the first call with this `compute`."""
        if compute not in self._kept:
            self._kept[compute] = compute(*arguments)
        return self._kept[compute]


def always(compute: Callable[..., T], *arguments: Any) -> T:
    """`compute(*arguments)`, each time: what stands in for a `Once` where nothing is kept."""
    return compute(*arguments)
