"""The codec that leaves pixels as they are: for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from t2x_core.encoders.encoder_config import IdentityConfig
from t2x_core.interfaces import Component, LatentCodec
from t2x_core.plugins import hookimpl


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


@hookimpl
def t2x_register() -> Sequence[Component]:
    return [Component("identity", IdentityConfig, IdentityCodec)]
