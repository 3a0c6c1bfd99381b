"""Settings of the backbone: those of the network itself, and which network a recipe starts from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from t2x_core.errors import UserError
from t2x_core.recipe.components import Count, Positive, multiples
from t2x_core.recipe.constraints import PATH_OR_NAME
from t2x_core.recipe.lora_config import LoraConfig


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What a recipe says of PT-DiT besides its size. A value that cannot work is a ValueError."""

    attention: Literal["proxy", "fused", "dense"] = "proxy"
    """`proxy`: as in the paper; `fused`: own window and all proxies in one attention; `dense`: full self-attention."""
    window: tuple[Count, Count, Count] | Literal["auto"] = "auto"
    """Frames, rows and columns of a window, in tokens; `auto`: about 8 windows along each spatial axis."""
    patch_size: Count = 2
    """Side of the square of latent pixels that makes one token, in latent pixels."""
    bottleneck: Count | None = None
    """Channels between a patch and its token, 32 to 128 for pixels in patches of 16 or 32; `null`: no bottleneck."""
    mlp_ratio: Positive = 4.0
    """Hidden width of the MLP, in widths of a token."""
    qk_norm: bool = False
    """Whether queries and keys are normalised (RMSNorm); stabilises long runs in low precision."""
    position: Literal["sincos", "rope"] = "sincos"
    """Position embedding of frame, row, column. `sincos`: a table is added to tokens; `rope`: rotary embedding."""
    position_scale: Positive = 1.0
    """Divides row and column numbers: r to go on at r times the size of `weights`, whose positions are interpolated."""
    giim: bool = True
    """Whether `proxy` has its proxies (global information); `false` is an ablation."""
    tcm: bool = True
    """Whether `proxy` has its windows and shifted windows (texture); `false` is an ablation."""

    def __post_init__(self) -> None:
        if self.attention not in ("proxy", "fused", "dense"):
            raise ValueError(f'attention must be "proxy", "fused" or "dense", not "{self.attention}"')
        if self.window != "auto" and (len(self.window) != 3 or min(self.window) < 1):
            raise ValueError(f'window must be three numbers of at least 1, or "auto", not {self.window}')
        if self.position not in ("sincos", "rope"):
            raise ValueError(f'position must be "sincos" or "rope", not "{self.position}"')
        if self.patch_size < 1:
            raise ValueError(f"patch_size must be at least 1, not {self.patch_size}")
        if self.bottleneck and self.bottleneck < 0:
            raise ValueError(f"bottleneck must be at least 1, or 0 for none, not {self.bottleneck}")
        if not (self.giim and self.tcm) and self.attention != "proxy":
            raise ValueError("giim and tcm can be left out of a proxy network of our own only")
        if not (self.giim or self.tcm):
            raise ValueError("giim and tcm cannot both be left out: nothing would see its neighbours")


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """Which network a recipe starts from, and how large it is."""

    preset: Literal["S", "B", "L", "XL", "H", "qihoo-t2i-1b"] | None = None
    """Named size of the network; `qihoo-t2i-1b`: also the layers of the authors' release; `null`: set the sizes."""
    weights: Annotated[str, PATH_OR_NAME] | None = None
    """Weights to start from, what fits: a run, an exported folder, a file, the release, hf://…; `null`: none."""
    lora: LoraConfig | None = None
    """Fine-tuning of a small update of `weights`, which stay as they are; `null`: all weights train."""
    width: Count | None = None
    """Channels of a token."""
    depth: Count | None = None
    """Number of blocks."""
    heads: Count | None = None
    """Attention heads; they share the width equally."""


@dataclass(frozen=True, kw_only=True)
class BackboneConfig(NetworkConfig, StartConfig):
    """PT-DiT. A preset gives width, depth and heads; each of these, if set, overrides it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora is not None and self.weights is None:
            raise UserError("a LoRA needs weights that it updates", key="lora", hint="set backbone.weights, a run say")
        sizes = {"width": self.width, "depth": self.depth, "heads": self.heads}
        unset = [name for name, value in sizes.items() if value is None]
        if self.preset is None and unset:
            raise ValueError(f"set a preset (S, B, L, XL, H), or width, depth and heads; not set: {', '.join(unset)}")
        if self.width is not None:
            check_width(self.width, self.heads)


def check_width(width: int, heads: int | None) -> None:
    """UserError if a token cannot have this width, or if the heads cannot share it; with the next widths that can."""
    if width % 16:
        raise UserError(f"{width} is not divisible by 16; {multiples(width, 16)} are", key="width")
    if heads is not None and width % heads:
        near = multiples(width, math.lcm(16, heads))
        raise UserError(f"{width} is not divisible by {heads} heads; {near} are", key="width")
