"""The camera convention, by points whose place in a view is known."""

from __future__ import annotations

import torch

from t2x_plugins.text_to_multiview.cameras import Cameras


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
    origins, directions = cameras.rays(size)
    for view in range(5):
        x, y, z, _ = torch.linalg.inv(cameras.poses[view]) @ torch.cat((point, angles(1.0)))
        half = torch.tan(torch.deg2rad(cameras.fov) / 2)
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


def test_a_batch_of_cameras_is_that_of_its_samples():
    one, two = Cameras.turntable(4, 0.0, 20.0, 4.0, 40.0), Cameras.turntable(4, 10.0, 30.0, 3.0, 50.0)
    both = Cameras(torch.stack((one.poses, two.poses)), torch.stack((one.fov, two.fov)))
    torch.testing.assert_close(both.pluecker(3), torch.stack((one.pluecker(3), two.pluecker(3))))
    assert {name: tuple(part.shape) for name, part in both.extra().items()} == {"cameras": (2, 4, 4, 4), "fov": (2,)}
