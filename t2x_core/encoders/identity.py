"""The codec that leaves pixels as they are: for small pictures."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from t2x_core.interfaces import LatentCodec
from t2x_core.recipe import ComponentConfig
from t2x_core.types import Bucket


@dataclass(frozen=True, kw_only=True)
class IdentityConfig(ComponentConfig):
    """The identity codec has no settings."""

    name: str = "identity"
    """Name of the codec."""


class IdentityCodec(LatentCodec):
    """Latents are pixels: three channels, no compression."""

    channels = 3
    spatial_factor = 1

    def __init__(self, config: IdentityConfig) -> None:
        super().__init__()

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def latent_shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        return (3, bucket.frames, bucket.height, bucket.width)
