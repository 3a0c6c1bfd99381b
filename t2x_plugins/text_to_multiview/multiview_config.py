"""Settings of the task: what may stand below `tasks.text-to-multiview` in a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from t2x_core.errors import UserError
from t2x_core.recipe import Range, SourcedTaskConfig
from t2x_plugins.captioned.captioned_config import ConditioningConfig, LossConfig
from t2x_plugins.text_to_multiview.view_source_config import Asked, ViewSourceConfig

Degrees = Annotated[float, Range(min=-360, max=360)]
Elevation = Annotated[float, Range(min=-89, max=89)]
Distance = Annotated[float, Range(above=0)]
FieldOfView = Annotated[float, Range(min=1, max=150)]
Count = Annotated[int, Range(min=1)]


@dataclass(frozen=True, kw_only=True)
class TurntablesConfig(ViewSourceConfig):
    """Turntables of the world of solids, made on the fly: views evenly around the circle, at one height."""

    size: Annotated[int, Range(min=16)] = 32
    """Height and width of a view, in pixels."""
    views: Count = 6
    """Views of a sample."""
    count: Count = 1_000_000
    """Different training scenes there are."""
    two_solids: Annotated[float, Range(min=0, max=1)] = 0.3
    """Share of scenes with two solids that stand in a relation."""
    omit: Annotated[float, Range(min=0, max=1)] = 0.1
    """Chance that a training caption leaves out the place of a single solid."""
    azimuth: tuple[Degrees, Degrees] = (0.0, 360.0)
    """Range from which the azimuth of one of the views is drawn, in degrees; 0 is the front, 90 the right hand side."""
    elevation: tuple[Elevation, Elevation] = (10.0, 40.0)
    """Range from which the elevation of a turntable is drawn, in degrees above the horizon."""
    distance: tuple[Distance, Distance] = (3.3, 3.3)
    """Range from which the distance of the cameras from the origin is drawn; a single solid is about 1 wide."""
    fov: FieldOfView = 40.0
    """Field of view, from side to side, in degrees."""
    val_count: Count = 128
    """Samples of the validation set, all of held-out combinations."""

    def __post_init__(self) -> None:
        for name in ("azimuth", "elevation", "distance"):
            low, high = getattr(self, name)
            if low > high:
                raise UserError(f"a range goes up, but {low:g} is more than {high:g}", key=name)

    @property
    def usual(self) -> Asked:
        low, high = self.elevation
        near, far = self.distance
        return Asked(
            views=self.views,
            azimuth=0.0,
            elevation=(low + high) / 2,
            distance=(near + far) / 2,
            fov=self.fov,
            size=self.size,
        )


@dataclass(frozen=True, kw_only=True)
class ViewConditioningConfig(ConditioningConfig):
    """How the caption and the cameras reach the backbone."""

    camera: Literal["embedding", "pluecker"] = "pluecker"
    """`embedding`: azimuth, elevation, distance and field of view of each view, added to its tokens; `pluecker`: the
    ray of each latent cell, joined to the latents on the channel axis."""


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """What the views of a sample are to each other in the attention."""

    window: Count | Literal["all"] = "all"
    """Neighbouring views of a window (pf of `backbone.window`); `all`: a window holds all views."""
    circular: bool = True
    """Whether the last view is a neighbour of the first, as on a turntable: shifted windows then join them."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """What can be asked for besides a prompt. `null`: as in the data (the middle of a range); for objects of one's own
    the largest number of views, 20° above the horizon, a field of view of 40°."""

    views: Annotated[int, Range(min=1, max=360)] | None = None
    """Views, evenly around the circle."""
    azimuth: Degrees = 0.0
    """Azimuth of one of the views, in degrees; 0 is the front, 90 the right hand side."""
    elevation: Elevation | None = None
    """Elevation of the cameras, in degrees above the horizon."""
    distance: Distance | None = None
    """Distance of the cameras from the origin, in units of the world."""
    fov: FieldOfView | None = None
    """Field of view, from side to side, in degrees."""
    size: Count | None = None
    """Height and width of a view, in pixels."""


@dataclass(frozen=True, kw_only=True)
class TextToMultiviewConfig(SourcedTaskConfig):
    """The task's block of a recipe."""

    conditioning: ViewConditioningConfig = field(default_factory=ViewConditioningConfig)
    """How the caption and the cameras reach the backbone."""
    views: ViewsConfig = field(default_factory=ViewsConfig)
    """What the views of a sample are to each other in the attention."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The training loss."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """What can be asked for besides a prompt."""

    source_class = ViewSourceConfig

    @property
    def asked(self) -> Asked:
        """The views to sample: those that are asked for, and where nothing is said what is usual for the data."""
        return replace(self.source.usual, **{key: v for key, v in vars(self.sampling).items() if v is not None})

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        size = self.sampling.size
        return {**super().sizes(), **({} if size is None else {"sampling.size": (size, size)})}
