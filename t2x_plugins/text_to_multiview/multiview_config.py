"""Settings of the task: what may stand below `tasks.text-to-multiview` in a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from t2x_core.errors import UserError
from t2x_core.recipe import Range, TaskConfig
from t2x_plugins.captioned.captioned_config import ConditioningConfig, LossConfig
from t2x_plugins.text_to_multiview.objects_config import ObjectsConfig

Degrees = Annotated[float, Range(min=-360, max=360)]
Elevation = Annotated[float, Range(min=-89, max=89)]
Distance = Annotated[float, Range(above=0)]
FieldOfView = Annotated[float, Range(min=1, max=150)]
Count = Annotated[int, Range(min=1)]

ELEVATION, DISTANCE, FOV = 20.0, 1.5, 40.0
"""Of the cameras that sample objects of one's own, where nothing else is said; degrees, units of the world, degrees."""


@dataclass(frozen=True, kw_only=True)
class TurntablesConfig:
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


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which views are sampled: `SamplingConfig` with nothing left open."""

    views: int
    azimuth: float
    elevation: float
    distance: float
    fov: float
    size: int


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where captioned views come from: one of these."""

    turntables: TurntablesConfig | None = None
    """The world of solids."""
    objects: ObjectsConfig | None = None
    """Objects of one's own."""

    def __post_init__(self) -> None:
        if self.turntables is None and self.objects is None:
            raise UserError("set turntables (made on the fly; {} for its defaults) or objects (your own)")
        if self.turntables is not None and self.objects is not None:
            raise UserError("there are both turntables and objects", hint="write turntables: null, or objects: null")

    @property
    def size(self) -> int:
        """Height and width of a view, in pixels."""
        return (self.turntables or self.objects).size  # type: ignore[union-attr]

    def asked(self, sampling: SamplingConfig) -> Asked:
        """What is asked for, and where nothing is said what is usual for the data."""
        solids, objects = self.turntables, self.objects
        if solids is not None:
            views, distance, fov = solids.views, sum(solids.distance) / 2, solids.fov
            elevation = sum(solids.elevation) / 2
        else:
            assert objects is not None  # __post_init__ sees to it
            views, distance, fov, elevation = objects.numbers[-1], objects.distance or DISTANCE, FOV, ELEVATION
        return Asked(
            views=sampling.views or views,
            azimuth=sampling.azimuth,
            elevation=elevation if sampling.elevation is None else sampling.elevation,
            distance=sampling.distance or distance,
            fov=sampling.fov or fov,
            size=sampling.size or self.size,
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
class TextToMultiviewConfig(TaskConfig):
    """The task's block of a recipe."""

    data: DataConfig
    """Where captioned views come from."""
    conditioning: ViewConditioningConfig = field(default_factory=ViewConditioningConfig)
    """How the caption and the cameras reach the backbone."""
    views: ViewsConfig = field(default_factory=ViewsConfig)
    """What the views of a sample are to each other in the attention."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The training loss."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """What can be asked for besides a prompt."""

    def check_trainable(self) -> None:
        if self.data.objects is not None and self.data.objects.folder is None:
            problem = "folder is missing (a folder with a folder for each object, in which are its images and cameras)"
            raise UserError(problem, key="data.objects")

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        kind = "turntables" if self.data.turntables is not None else "objects"
        sizes = {f"data.{kind}.size": (self.data.size, self.data.size)}
        asked = self.sampling.size
        return sizes if asked is None else sizes | {"sampling.size": (asked, asked)}
