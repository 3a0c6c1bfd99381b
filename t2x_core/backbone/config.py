"""What defines a backbone."""

from __future__ import annotations

from dataclasses import dataclass, field

from t2x_core.recipe.backbone_config import NetworkConfig, check_width
from t2x_core.types import ConditioningDims


@dataclass(frozen=True)
class PTDiTConfig(NetworkConfig):
    """What defines a backbone: what a recipe says of it, its sizes, and what it is conditioned on."""

    in_channels: int
    """C, channels of the latents."""
    width: int
    """D, channels of a token; a multiple of 16 and of `heads`."""
    depth: int
    """Blocks."""
    heads: int
    """Heads of each attention."""
    out_channels: int = 0
    """Channels that come out; 0 = `in_channels`."""
    dims: ConditioningDims = field(default_factory=ConditioningDims)
    """Sizes of the parts of the conditioning; for an absent part (0) there are no layers."""
    shared_by: tuple[ConditioningDims, ...] = ()
    """Sizes of the parts in each task that shares the backbone, none above `dims` (`BandedLinear`)."""
    released: bool = False
    """The authors' released network (`load_released`): a second Linear after the visual cross-attention and the
    shifted window attention, and no gate on the former; windows shifted also along an axis that has only one; columns
    and rows numbered as `position_table` says."""
    folded: bool = False
    """A released network whose two projections after the visual cross-attention are one (`fold_released`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.out_channels:
            object.__setattr__(self, "out_channels", self.in_channels)
        for name in ("in_channels", "width", "depth", "heads", "out_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        check_width(self.width, self.heads)
        if self.position == "rope" and self.width // self.heads % 2:
            raise ValueError(f"rope needs an even number of channels a head, not {self.width // self.heads}")
        if self.folded and not self.released:
            raise ValueError("only a released network has something to fold")
        if not self.released:
            return
        if self.attention != "proxy":
            raise ValueError(f'the released network has attention "proxy", not "{self.attention}"')
        if self.position == "rope":
            raise ValueError('the released network has position "sincos", not "rope"')
        if self.bottleneck:
            raise ValueError("the released network has no bottleneck")
        if not (self.giim and self.tcm):
            raise ValueError("giim and tcm can be left out of a proxy network of our own only")
