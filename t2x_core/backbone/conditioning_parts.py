"""The parts of the conditioning of one task, in a backbone that is built for several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from t2x_core.types import Conditioning, ConditioningDims

PARTS = {"text": -1, "vector": -1, "frames": -1, "concat": 1}
"""Part → the axis of its channels."""


def widths_of(part: str, tasks: Iterable[ConditioningDims]) -> list[int]:
    """How wide a part is in the tasks that have it, ascending."""
    return sorted({getattr(dims, part) for dims in tasks} - {0})


def check_parts(conditioning: Conditioning, dims: ConditioningDims, latents: Tensor) -> None:
    """Holds a conditioning against the backbone's sizes and latents (B, C, F, H, W). Parts may be narrower, or absent.

    Raises:
        ValueError: a part is wider than `dims`, of other samples or frames, or `concat` has not the latents' shape.
    """
    for part, axis in PARTS.items():
        value, size = getattr(conditioning, part), getattr(dims, part)
        if value is None:
            continue
        check_part(part, value, len(latents), latents.shape[2:])
        if (found := value.shape[axis]) > size:
            raise ValueError(f"conditioning.{part} has {found} channels, the backbone was built for {size}")
    mask = conditioning.text_mask
    if mask is not None and (conditioning.text is None or mask.shape != conditioning.text.shape[:2]):
        raise ValueError(f"conditioning.text_mask is {tuple(mask.shape)}, not (B, T) of conditioning.text")


def check_part(part: str, value: Tensor, batch: int, shape: Sequence[int]) -> None:
    """ValueError if a part is not of so many samples, or does not fit latents of `shape`, (F', H', W')."""
    axes = {"text": 3, "vector": 2, "frames": 3, "concat": 5}[part]
    if value.ndim != axes or len(value) != batch:
        raise ValueError(f"conditioning.{part} is {tuple(value.shape)}: not {axes} axes, of a batch of {batch}")
    if part == "frames" and value.shape[1] not in (1, shape[0]):
        raise ValueError(f"conditioning.frames has {value.shape[1]} entries, for latents of {shape[0]} frames")
    if part == "concat" and tuple(value.shape[2:]) != tuple(shape):
        raise ValueError(
            f"conditioning.concat is {tuple(value.shape[2:])} (F', H', W'), the latents are {tuple(shape)}"
        )
