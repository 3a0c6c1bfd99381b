"""Cameras around an object: the convention, turntables, angles, rays.

The world is right-handed with z up, and the object stands around the origin with its front towards -y. A camera is a
pinhole; its matrix is camera-to-world in the axes of OpenGL, Blender and NeRF: x to the right, y up, and it looks along
-z. So the columns of a matrix are the camera's right, up and back in the world, and where it stands.

Intrinsics are fx, fy, cx, cy as shares of the image: fx and cx of its width, fy and cy of its height, cy from the top.
So they hold for an image of any size. (0.5, 0.5) is the principal point in the middle.

A camera that looks at the origin has three numbers. Azimuth: 0° stands at the front (on -y), 90° at the object's right
hand side as the front camera sees it (on +x); turning with the azimuth goes counter-clockwise seen from above.
Elevation: 0° on the horizon, 90° straight above. Distance: from the origin, in units of the world. All angles here are
in degrees. The field of view is the angle between the left and the right side of an image.

The views of a sample stand around the circle in the order of their azimuths (`Cameras.around`), so that neighbours on
the F axis are neighbours in the world, and so are the last view and the first.

Geometry is computed in float32 at least, whatever the precision of the network: bfloat16 moves a camera by degrees.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    intrinsics: Tensor
    """(…, F, 4): fx, fy, cx, cy as shares of the width and the height of the image."""

    def __post_init__(self) -> None:
        dtype = torch.promote_types(self.poses.dtype, torch.float32)
        object.__setattr__(self, "poses", self.poses.to(dtype))
        object.__setattr__(self, "intrinsics", self.intrinsics.to(self.poses))

    @classmethod
    def from_angles(cls, azimuth: Tensor, elevation: Tensor, distance: Tensor, fov: Tensor | float = FOV) -> Self:
        """Cameras that look at the origin, upright; their images are square.

        Args:
            azimuth, elevation: (…, F) degrees; elevation within (-90, 90).
            distance: (…, F), above 0. The three broadcast.
            fov: (…) degrees, or one number for all.
        """
        azimuth, elevation, distance = torch.broadcast_tensors(azimuth, elevation, distance)
        a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation)
        nought = torch.zeros_like(a)
        right = torch.stack((a.cos(), a.sin(), nought), -1)  # (…, F, 3)
        back = torch.stack((e.cos() * a.sin(), -e.cos() * a.cos(), e.sin()), -1)
        up = torch.linalg.cross(back, right)
        columns = torch.stack((right, up, back, distance.unsqueeze(-1) * back), -1)  # (…, F, 3, 4)
        last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=a.dtype, device=a.device).expand(*a.shape, 1, 4)
        angle = torch.deg2rad(torch.as_tensor(fov, dtype=a.dtype, device=a.device)).unsqueeze(-1).expand(a.shape)
        focal, middle = 0.5 / torch.tan(angle / 2), torch.full_like(a, 0.5)
        intrinsics = torch.stack((focal, focal, middle, middle), -1)
        return cls(torch.cat((columns, last), -2), intrinsics)

    @classmethod
    def turntable(cls, views: int, azimuth: float, elevation: float, distance: float, fov: float = FOV) -> Self:
        """`views` cameras evenly around the circle, one of them at `azimuth`; one sample (F, 4, 4), float64."""
        places = torch.arange(views, dtype=torch.float64) * (360 / views)
        start = azimuth % (360 / views)  # so that they stand in the order of their azimuths
        level, away = (torch.tensor(x, dtype=torch.float64) for x in (elevation, distance))
        return cls.from_angles(places + start, level, away, fov)

    @classmethod
    def from_extra(cls, extra: Mapping[str, Tensor]) -> Self:
        """The cameras of `Batch.extra` or `Sample.extra`."""
        return cls(extra["cameras"], extra["intrinsics"])

    def extra(self) -> dict[str, Tensor]:
        """As they travel in `Batch.extra`: "cameras" (…, F, 4, 4) and "intrinsics" (…, F, 4), float32."""
        return {"cameras": self.poses.float(), "intrinsics": self.intrinsics.float()}

    @property
    def fov(self) -> Tensor:
        """(…, F) field of view in degrees."""
        fx, _, cx, _ = self.intrinsics.unbind(-1)
        return torch.rad2deg(torch.atan(cx / fx) + torch.atan((1 - cx) / fx))

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

    def rays(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Where the rays through the centres of height × width cells start (…, F, 1, 1, 3) and their unit directions
        (…, F, height, width, 3), rows from top to bottom."""
        poses = self.poses
        fx, fy, cx, cy = self.intrinsics[..., None, None].unbind(-3)  # (…, F, 1, 1)
        row, column = (
            (torch.arange(n, dtype=poses.dtype, device=poses.device) + 0.5) / n for n in (height, width)
        )  # as shares of the image
        right, up = torch.broadcast_tensors((column - cx) / fx, (cy - row[:, None]) / fy)  # (…, F, height, width)
        local = torch.stack((right, up, -torch.ones_like(right)), -1)
        # not a matrix product, which autocast and TensorFloat-32 would round
        world = (poses[..., None, None, :3, :3] * local.unsqueeze(-2)).sum(-1)
        return poses[..., :3, 3][..., None, None, :], torch.nn.functional.normalize(world, dim=-1)

    def pluecker(self, height: int, width: int | None = None) -> Tensor:
        """Plücker coordinates (…, 6, F, height, width) of those rays: direction d, and moment o × d; `width` is the
        height where it is None.

        They name the ray itself and not a point of it, so they do not depend on how far away the camera stands on it
        (Sitzmann et al. 2021, arXiv 2106.02634, section 3.1).
        """
        origin, direction = self.rays(height, height if width is None else width)
        moment = torch.linalg.cross(origin.expand_as(direction), direction)
        return torch.cat((direction, moment), -1).movedim(-1, -4)
