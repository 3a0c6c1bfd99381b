"""The camera convention, by points whose place in a view is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from t2x_plugins.text_to_multiview.cameras import Cameras
from t2x_plugins.text_to_multiview.conditioning import camera_features


def angles(*degrees):
    return torch.tensor(degrees, dtype=torch.float64)


def test_the_front_camera_stands_on_minus_y_and_sees_x_to_the_right():
    cameras = Cameras.from_angles(angles(0.0), angles(0.0), angles(4.0))
    right, up, back, place = cameras.poses[0, :3].unbind(-1)
    torch.testing.assert_close(right, angles(1.0, 0, 0))
    torch.testing.assert_close(up, angles(0.0, 0, 1))
    torch.testing.assert_close(back, angles(0.0, -1, 0))
    torch.testing.assert_close(place, angles(0.0, -4, 0))


def test_ninety_degrees_is_on_plus_x_and_above_is_plus_z():
    cameras = Cameras.from_angles(angles(90.0, 0), angles(0.0, 89), angles(2.0))
    torch.testing.assert_close(cameras.poses[0, :3, 3], angles(2.0, 0, 0))
    assert cameras.poses[1, 2, 3] > 1.99


def test_matrices_are_rigid_and_angles_come_back():
    azimuth, elevation, distance = angles(0.0, 10, 200, 359), angles(-30.0, 0, 20, 80), angles(1.0, 2, 3, 4)
    cameras = Cameras.from_angles(azimuth, elevation, distance)
    turn = cameras.poses[:, :3, :3]
    torch.testing.assert_close(turn @ turn.mT, torch.eye(3, dtype=torch.float64).expand(4, 3, 3))
    torch.testing.assert_close(torch.linalg.det(turn), torch.ones(4, dtype=torch.float64))
    for found, wanted in zip(cameras.angles(), (azimuth, elevation, distance), strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_turntable_is_even_in_order_and_goes_through_its_azimuth():
    azimuth, elevation, distance = Cameras.turntable(6, 275.0, 20.0, 4.0).angles()
    assert (azimuth.diff() > 0).all()
    torch.testing.assert_close(azimuth, angles(35.0, 95, 155, 215, 275, 335))
    torch.testing.assert_close(elevation, torch.full_like(azimuth, 20))
    torch.testing.assert_close(distance, torch.full_like(azimuth, 4))
    mixed = Cameras.from_angles(angles(300.0, 20, 100), angles(0.0), angles(1.0))
    assert mixed.around().tolist() == [1, 2, 0]


def test_rays_pass_through_what_is_seen_there():
    """A point is projected by hand; the ray of its cell passes it closely."""
    cameras = Cameras.turntable(5, 0.0, 25.0, 4.0, fov=50.0)
    point, size = angles(0.3, -0.2, 0.4), 400
    origins, directions = cameras.rays(size, size)
    for view in range(5):
        x, y, z, _ = torch.linalg.inv(cameras.poses[view]) @ torch.cat((point, angles(1.0)))
        half = math.tan(math.radians(25.0))
        column = int((x / -z / half + 1) / 2 * size)
        row = int((1 - y / -z / half) / 2 * size)
        origin, direction = origins[view, 0, 0], directions[view, row, column]
        assert torch.linalg.norm(torch.linalg.cross(point - origin, direction)) < 0.01
        assert (point - origin) @ direction > 0


def test_pluecker_coordinates_are_of_the_ray_and_not_of_a_point_of_it():
    near, far = (Cameras.from_angles(angles(30.0, 90), angles(10.0), angles(d)) for d in (1.0, 5.0))
    assert near.pluecker(5).shape == (6, 2, 5, 5)
    torch.testing.assert_close(near.pluecker(5)[:, :, 2, 2], far.pluecker(5)[:, :, 2, 2])  # both look at the origin
    direction, moment = far.pluecker(4).split(3)
    torch.testing.assert_close((direction * moment).sum(0), torch.zeros(2, 4, 4, dtype=torch.float64))
    torch.testing.assert_close(direction.norm(dim=0), torch.ones(2, 4, 4, dtype=torch.float64))


def plain_pluecker(pose, intrinsics, height, width):
    """One view, cell by cell, without arrays: the cell's centre in pixels, through the lens, into the world."""
    fx, fy, cx, cy = (float(x) for x in intrinsics)
    found = np.zeros((6, height, width))
    for i in range(height):
        for j in range(width):
            x = (j + 0.5 - cx * width) / (fx * width)  # to the right and down, at depth 1
            y = (i + 0.5 - cy * height) / (fy * height)
            length = math.sqrt(x * x + y * y + 1)
            d = [(pose[k][0] * x - pose[k][1] * y - pose[k][2]) / length for k in range(3)]
            o = [pose[k][3] for k in range(3)]
            moment = [o[1] * d[2] - o[2] * d[1], o[2] * d[0] - o[0] * d[2], o[0] * d[1] - o[1] * d[0]]
            found[:, i, j] = [*d, *moment]
    return found


def any_cameras(*shape):
    """Random rotations, places and lenses, float64."""
    generator = torch.Generator().manual_seed(0)
    turn, _ = torch.linalg.qr(torch.randn(*shape, 3, 3, generator=generator, dtype=torch.float64))
    poses = torch.eye(4, dtype=torch.float64).repeat(*shape, 1, 1)
    poses[..., :3, :3] = turn * torch.linalg.det(turn)[..., None, None]
    poses[..., :3, 3] = 3 * torch.randn(*shape, 3, generator=generator, dtype=torch.float64)
    return Cameras(poses, 0.2 + torch.rand(*shape, 4, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize(("height", "width"), [(5, 5), (4, 7), (6, 3)])
def test_rays_of_any_lens_and_any_size_are_those_of_a_plain_loop(height, width):
    cameras = any_cameras(2, 3)
    found = cameras.pluecker(height, width)
    assert found.shape == (2, 6, 3, height, width)
    for b in range(2):
        for f in range(3):
            wanted = plain_pluecker(cameras.poses[b, f].tolist(), cameras.intrinsics[b, f], height, width)
            np.testing.assert_allclose(found[b, :, f], wanted, atol=1e-12)


def test_rays_of_a_part_of_an_image_are_those_of_the_whole_image_there():
    """A crop moves the principal point and shortens the sides: the rays of its cells stay what they were."""
    whole = any_cameras(2)
    top, left, height, width = 2, 3, 4, 6
    fx, fy, cx, cy = whole.intrinsics.unbind(-1)
    part = torch.stack((fx * 12 / width, fy * 8 / height, (cx * 12 - left) / width, (cy * 8 - top) / height), -1)
    rays = whole.pluecker(8, 12)[..., top : top + height, left : left + width]
    torch.testing.assert_close(Cameras(whole.poses, part).pluecker(height, width), rays)


def test_the_field_of_view_is_the_angle_between_the_sides_wherever_the_middle_lies():
    cameras = any_cameras(4)
    level = Cameras(cameras.poses, cameras.intrinsics * angles(1.0, 1, 1, 0) + angles(0.0, 0, 0, 0.5))
    _, directions = level.rays(1, 2000)
    between = (directions[:, 0, 0] * directions[:, 0, -1]).sum(-1).acos()
    torch.testing.assert_close(level.fov, torch.rad2deg(between), rtol=2e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rays_and_angles_are_float32_under_autocast(dtype):
    cameras = Cameras.from_extra(any_cameras(2, 5).extra())
    wanted = [cameras.pluecker(8), camera_features(cameras), *cameras.angles(), cameras.fov]
    with torch.autocast("cpu", dtype):
        found = [cameras.pluecker(8), camera_features(cameras), *cameras.angles(), cameras.fov]
        made = Cameras.turntable(4, 7.3, 22.0, 3.0).pluecker(8)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)
    assert torch.equal(made, Cameras.turntable(4, 7.3, 22.0, 3.0).pluecker(8))


def test_rays_are_float32_at_least():
    cameras = any_cameras(3)
    rounded = Cameras(cameras.poses.bfloat16(), cameras.intrinsics.bfloat16())
    assert rounded.pluecker(4).dtype == camera_features(rounded).dtype == torch.float32
    assert cameras.pluecker(4).dtype == torch.float64


def test_a_batch_of_cameras_is_that_of_its_samples():
    one, two = Cameras.turntable(4, 0.0, 20.0, 4.0, 40.0), Cameras.turntable(4, 10.0, 30.0, 3.0, 50.0)
    both = Cameras(torch.stack((one.poses, two.poses)), torch.stack((one.intrinsics, two.intrinsics)))
    torch.testing.assert_close(both.pluecker(3), torch.stack((one.pluecker(3), two.pluecker(3))))
    torch.testing.assert_close(both.fov, angles(40.0, 50).unsqueeze(-1).expand(2, 4))
    shapes = {name: tuple(part.shape) for name, part in both.extra().items()}
    assert shapes == {"cameras": (2, 4, 4, 4), "intrinsics": (2, 4, 4)}
