"""Settings that data sources of views share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from t2x_core.recipe import SourceConfig


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Views to sample, evenly around the circle."""

    views: int
    azimuth: float
    elevation: float
    distance: float
    fov: float
    size: int


@dataclass(frozen=True, kw_only=True)
class ViewSourceConfig(SourceConfig):
    """Block of a data source that gives captioned views, with their cameras in `extra` (`Cameras.extra`)."""

    @property
    @abstractmethod
    def usual(self) -> Asked:
        """What is sampled where nobody asks for something else."""
