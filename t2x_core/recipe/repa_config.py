"""The block `diffusion.repa` of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from t2x_core.errors import UserError
from t2x_core.recipe.constraints import Range


@dataclass(frozen=True, kw_only=True)
class RepaConfig:
    """Representation alignment: tokens of a block are drawn to what a pretrained image encoder says of the sample."""

    encoder: str = "vit_base_patch14_dinov2.lvd142m"
    """Vision transformer of timm, such as one of DINOv2 or DINOv3, which sees each frame; it does not train."""
    weights: Path | None = None
    """Its weights, a safetensors file as timm has it; `null`: from the hub's cache, or fetched."""
    random_weights: bool = False
    """Whether the encoder is left untrained: for tests alone, as nothing is learned from it."""
    block: Annotated[int, Range(min=0)] | None = None
    """Block of the backbone after which tokens are aligned, 0 is the first; `null`: after a third of them."""
    width: Annotated[int, Range(min=1)] = 2048
    """Hidden channels of the projection, three layers from a token to a feature of the encoder."""
    weight: Annotated[float, Range(above=0)] = 0.5
    """Factor of 1 − cosine similarity in the loss."""
    stop_step: Annotated[int, Range(min=1)] | None = None
    """Optimizer step from which on there is no alignment, as it helps early and holds back later; `null`: never."""

    def __post_init__(self) -> None:
        if self.weights is not None and self.random_weights:
            raise UserError("weights are named, and random ones wanted", key="random_weights", hint="write false")
        if self.weights is not None and self.weights.suffix != ".safetensors":
            raise UserError(f"{self.weights} is no safetensors file", key="weights", hint="save it as safetensors")
