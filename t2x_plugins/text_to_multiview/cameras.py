"""Cameras around an object: the convention, turntables, angles, rays.

The world is right-handed with z up, and the object stands around the origin with its front towards -y. A camera is a
pinhole; its matrix is camera-to-world in the axes of OpenGL, Blender and NeRF: x to the right, y up, and it looks along
-z. So the columns of a matrix are the camera's right, up and back in the world, and where it stands.

A camera that looks at the origin has three numbers. Azimuth: 0° stands at the front (on -y), 90° at the object's right
hand side as the front camera sees it (on +x); turning with the azimuth goes counter-clockwise seen from above.
Elevation: 0° on the horizon, 90° straight above. Distance: from the origin, in units of the world. All angles here are
in degrees. Pictures are square, and their field of view is the angle between opposite sides.

The views of a sample stand around the circle in the order of their azimuths (`Cameras.around`), so that neighbours on
the F axis are neighbours in the world, and so are the last view and the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

FOV = 40.0
"""Field of view where none is said, in degrees."""


@dataclass(frozen=True)
class Cameras:
    """The cameras of one sample, or of a batch of them (leading axes …)."""

    poses: Tensor
    """(…, F, 4, 4) camera-to-world."""
    fov: Tensor
    """(…) field of view in degrees, the same for all views of a sample."""

    @classmethod
    def from_angles(cls, azimuth: Tensor, elevation: Tensor, distance: Tensor, fov: Tensor | float = FOV) -> Self:
        """Cameras that look at the origin, upright.

        Args:
            azimuth, elevation: (…, F) degrees; elevation within (-90, 90).
            distance: (…, F), above 0. The three broadcast.
            fov: (…) degrees.
        """
        azimuth, elevation, distance = torch.broadcast_tensors(azimuth, elevation, distance)
        a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation)
        nought = torch.zeros_like(a)
        right = torch.stack((a.cos(), a.sin(), nought), -1)  # (…, F, 3)
        back = torch.stack((e.cos() * a.sin(), -e.cos() * a.cos(), e.sin()), -1)
        up = torch.linalg.cross(back, right)
        columns = torch.stack((right, up, back, distance.unsqueeze(-1) * back), -1)  # (…, F, 3, 4)
        last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=a.dtype, device=a.device).expand(*a.shape, 1, 4)
        return cls(torch.cat((columns, last), -2), torch.as_tensor(fov, dtype=a.dtype).expand(a.shape[:-1]))

    @classmethod
    def turntable(cls, views: int, azimuth: float, elevation: float, distance: float, fov: float = FOV) -> Self:
        """`views` cameras evenly around the circle, one of them at `azimuth`; one sample (F, 4, 4), float64."""
        places = torch.arange(views, dtype=torch.float64) * (360 / views)
        start = azimuth % (360 / views)  # so that they stand in the order of their azimuths
        level, away = (torch.tensor(x, dtype=torch.float64) for x in (elevation, distance))
        return cls.from_angles(places + start, level, away, fov)

    def angles(self) -> tuple[Tensor, Tensor, Tensor]:
        """Azimuth in [0, 360), elevation and distance of where each camera stands, (…, F) each."""
        x, y, z = self.poses[..., :3, 3].unbind(-1)
        distance = torch.sqrt(x * x + y * y + z * z)
        azimuth = torch.rad2deg(torch.atan2(x, -y)) % 360
        azimuth = torch.where(azimuth >= 360, torch.zeros_like(azimuth), azimuth)  # -1e-9 % 360 rounds up to 360
        return azimuth, torch.rad2deg(torch.asin((z / distance).clamp(-1, 1))), distance

    def around(self) -> Tensor:
        """The order of the views around the circle: indices (…, F) of the cameras by azimuth."""
        return self.angles()[0].argsort(dim=-1, stable=True)

    def rays(self, size: int) -> tuple[Tensor, Tensor]:
        """Where the rays through the centres of size × size cells start (…, F, 1, 1, 3) and their unit directions
        (…, F, size, size, 3), rows from top to bottom."""
        poses = self.poses
        half = torch.tan(torch.deg2rad(self.fov.to(poses)) / 2)[..., None, None, None]  # (…, 1, 1, 1)
        cell = ((torch.arange(size, dtype=poses.dtype, device=poses.device) + 0.5) * 2 / size - 1) * half
        right, up = torch.broadcast_tensors(cell, -cell.mT)  # (…, 1, size, size)
        local = torch.stack((right, up, -torch.ones_like(right)), -1).expand(*poses.shape[:-2], size, size, 3)
        world = torch.einsum("...fij,...fhwj->...fhwi", poses[..., :3, :3], local)
        return poses[..., :3, 3][..., None, None, :], torch.nn.functional.normalize(world, dim=-1)

    def pluecker(self, size: int) -> Tensor:
        """Plücker coordinates (…, 6, F, size, size) of those rays: direction d, and moment o × d.

        They name the ray itself and not a point of it, so they do not depend on how far away the camera stands on it
        (Sitzmann et al. 2021, arXiv 2106.02634, section 3.1).
        """
        origin, direction = self.rays(size)
        moment = torch.linalg.cross(origin.expand_as(direction), direction)
        return torch.cat((direction, moment), -1).movedim(-1, -4)

    def extra(self) -> dict[str, Tensor]:
        """As they travel in `Batch.extra`: "cameras" (…, F, 4, 4) and "fov" (…), float32."""
        return {"cameras": self.poses.float(), "fov": self.fov.float()}
