"""The block `cache` of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from t2x_core.errors import UserError
from t2x_core.recipe.constraints import Range


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """What is encoded once and kept, by `t2x cache`. Training reads what is there, and encodes what is not."""

    folder: Path | None = None
    """Folder of the cache, which several recipes may share; `null`: nothing is kept."""
    latents: bool = True
    """Whether latents are kept: what the codec makes of pixels, and of controls."""
    text: bool = True
    """Whether text tokens are kept: what frozen text encoders make of captions. One that is all there is not loaded."""
    variants: Annotated[int, Range(min=1)] | None = None
    """Fixed versions of a sample with random crop, flip or first frame; `null`: drawn anew, which cannot be kept."""
    dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
    """Precision of what is kept. float16 halves the size; `int8` has a scale for each channel, or each text token."""
    text_dtype: Literal["float32", "float16", "bfloat16", "int8"] | None = None
    """Precision of text tokens, if another than `dtype`; `null`: the same."""
    identity: Literal["time", "bytes"] = "time"
    """By what a file is known to be the same: its size and time of change, or its `bytes`, which have to be read."""

    def __post_init__(self) -> None:
        if self.folder is not None and not (self.latents or self.text):
            raise UserError("neither latents nor text is kept", key="folder", hint="write folder: null")
