"""Whether two readings of one sample are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def first_difference(one: Any, other: Any, path: str = "") -> str | None:
    """Where two values first differ, such as "extra.label", or None: tensors to the last bit, NaN equal to NaN."""
    if type(one) is not type(other):
        return path or "its type"
    if isinstance(one, Tensor):
        same = one.shape == other.shape and one.dtype == other.dtype and torch.equal(_bits(one), _bits(other))
        return None if same else path or "its values"
    if isinstance(one, np.ndarray):
        same = one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()
        return None if same else path or "its values"
    if is_dataclass(one) and not isinstance(one, type):
        one, other = ({f.name: getattr(value, f.name) for f in fields(value)} for value in (one, other))
    elif hasattr(one, "_asdict"):  # a named tuple
        one, other = one._asdict(), other._asdict()
    if isinstance(one, Mapping):
        if one.keys() != other.keys():
            return f"the names in {path}" if path else "its names"
        pairs = [(str(name), one[name], other[name]) for name in one]
    elif isinstance(one, Sequence) and not isinstance(one, str | bytes):
        if len(one) != len(other):
            return f"the length of {path}" if path else "its length"
        pairs = [(str(i), *values) for i, values in enumerate(zip(one, other, strict=True))]
    else:
        return None if one == other or (one != one and other != other) else path or "its value"
    for name, mine, theirs in pairs:
        if (found := first_difference(mine, theirs, f"{path}.{name}" if path else name)) is not None:
            return found
    return None


def _bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, as its values."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8) if flat.numel() else flat
