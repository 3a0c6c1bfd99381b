"""Scenes, captions and rendering of solids."""

from __future__ import annotations

import numpy as np
import pytest

from t2x_plugins.shapes.scene import COLOURS, keyed_random
from t2x_plugins.shapes.solids import (
    Solid,
    SolidScene,
    canonical,
    caption_spec,
    combinations,
    full_caption_spec,
    is_held_out,
    parse,
    phrases,
    render,
    render_caption,
    sample_scene,
)
from t2x_plugins.shapes.solids.render import DARKEST, trace
from t2x_plugins.shapes.solids.scene import FLAT, INVERSE, PLACES, RELATIONS, SOLIDS
from t2x_plugins.text_to_multiview.cameras import Cameras

FRONT = Cameras.turntable(1, 0.0, 0.0, 4.0).poses.numpy()


def solid(kind="sphere", colour="red", centre=(0.0, 0.0, 0.0), radius=0.5):
    return Solid(kind, colour, None, centre, radius)


def middle(image):
    """Row and column of the centroid, from the centre of the image, in half sides."""
    bright = image.astype(float).sum(-1)
    side = np.arange(len(bright)) + 0.5
    rows, columns = bright.sum(1) @ side, bright.sum(0) @ side
    return np.array([rows, columns]) / bright.sum() * 2 / len(bright) - 1


def test_scenes_follow_from_their_number_and_splits_do_not_meet():
    assert sample_scene(3, 5, "train", 0.5) == sample_scene(3, 5, "train", 0.5)
    assert sample_scene(3, 5, "train", 0.5) != sample_scene(4, 5, "train", 0.5)
    for split in ("train", "held_out"):
        scenes = [sample_scene(0, i, split, 0.5) for i in range(300)]
        assert {is_held_out(scene) for scene in scenes} == {split == "held_out"}
    assert len(combinations("train")) + len(combinations("held_out")) == len(SOLIDS) * len(COLOURS) * len(PLACES)
    assert {kind for kind, _, _ in combinations("held_out")} == set(SOLIDS)


def test_a_pair_is_held_out_from_both_sides():
    for i in range(200):
        scene = sample_scene(1, i, "train", 1.0)
        told_otherwise = SolidScene(scene.solids[::-1], INVERSE[scene.relation])
        assert is_held_out(scene) == is_held_out(told_otherwise)


def test_pairs_stand_as_they_are_told_and_do_not_touch():
    for i in range(300):
        scene = sample_scene(2, i, "train", 1.0)
        first, second = (np.array(s.centre) for s in scene.solids)
        way = np.array(RELATIONS[scene.relation])
        away = first - second
        assert away @ way > 2 * np.abs(away * (way == 0)).max()
        assert scene.solids[0].colour != scene.solids[1].colour
        if way[2]:
            assert scene.solids[1 if way[2] > 0 else 0].kind in FLAT
        beside = Cameras.turntable(1, 90.0 * bool(way[1]), 0.0, 3.3).poses.numpy()  # one does not hide the other
        _, which = trace(scene.solids, beside, 40.0, 32, 2)
        assert (which == 0).sum() > 100
        assert (which == 1).sum() > 100


def test_every_wording_is_read_back():
    for i in range(60):
        told = full_caption_spec(sample_scene(5, i, "train", 0.5))
        same = {told} if told.relation is None else {told, type(told)(told.solids[::-1], INVERSE[told.relation])}
        for text in phrases(told):
            assert parse(text) in same, text
        assert parse(canonical(told)) == told
    words = keyed_random(1)
    assert caption_spec(sample_scene(0, 0), words, omit=1.0).solids[0].place is None
    assert len({render_caption(told, words) for _ in range(50)}) > 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a dog",
        "a red blue cone",
        "a red cone and a blue box",
        "a red cone on the left of the room",
        "three red cones",
    ],
)
def test_other_captions_are_not_of_this_world(text):
    assert parse(text) is None


def test_left_is_left_and_near_is_large_from_the_front():
    (left,) = render(SolidScene((solid(centre=(-0.5, 0, 0)),)), FRONT, 40.0, 32)
    assert middle(left)[1] < -0.2
    assert abs(middle(left)[0]) < 0.1
    (high,) = render(SolidScene((solid(centre=(0, 0, 0.5)),)), FRONT, 40.0, 32)
    assert middle(high)[0] < -0.2
    near, far = (render(SolidScene((solid(centre=(0, y, 0)),)), FRONT, 40.0, 32) for y in (-0.5, 0.5))
    assert (near > 0).sum() > 1.3 * (far > 0).sum()


def test_a_camera_that_goes_round_sees_the_left_hand_side_nearer_and_then_on_the_right():
    """Azimuth 90 stands on the right: what is on the left lies behind; at 180 it is on the right, at 270 in front."""
    poses = Cameras.turntable(4, 0.0, 0.0, 4.0).poses.numpy()
    views = render(SolidScene((solid(centre=(-0.5, 0, 0)),)), poses, 40.0, 32)
    columns = [middle(view)[1] for view in views]
    areas = [(view > 0).sum() for view in views]
    assert columns[0] < -0.2 < -0.05 < columns[1] < 0.05 < 0.2 < columns[2]
    assert areas[1] < areas[0] < areas[3]


@pytest.mark.parametrize("kind", SOLIDS)
def test_silhouettes_are_those_of_the_solids(kind):
    """Areas by hand, from far away, where rays are parallel: along y, and from above."""
    far = Cameras.turntable(1, 0.0, 0.0, 100.0, fov=2.0)
    shade, _ = trace([solid(kind, radius=1.0)], far.poses.numpy(), 2.0, 64, 4)
    half = 100 * np.tan(np.radians(1))
    area = (shade > 0).mean() * (2 * half) ** 2
    expected = {"sphere": np.pi, "box": 1.64**2, "cone": 2.0, "cylinder": 1.7 * 1.9}[kind]
    assert area == pytest.approx(expected, rel=0.03)
    assert shade[shade > 0].min() >= DARKEST
    assert shade.max() <= 1


def test_the_nearer_solid_hides_the_other():
    scene = SolidScene((solid("box", "red", (0, 0.6, 0), 0.3), solid("box", "blue", (0, -0.6, 0), 0.5)))
    (front, back) = render(scene, Cameras.turntable(2, 0.0, 0.0, 4.0).poses.numpy(), 40.0, 32)
    assert not (front[..., 0] > 60).any()
    assert (back[..., 0] > 60).any()


def test_the_light_stands_still():
    """A sphere is brighter from the left than from the right, and views do not depend on those beside them."""
    poses = Cameras.turntable(4, 0.0, 20.0, 4.0).poses.numpy()
    scene = SolidScene((solid(),))
    views = render(scene, poses, 40.0, 32)
    assert views[3].mean() > 1.2 * views[1].mean()
    np.testing.assert_array_equal(render(scene, poses[2:3], 40.0, 32)[0], views[2])


def test_large_views_are_made_in_parts():
    scene, poses = sample_scene(0, 3, "train", 1.0), Cameras.turntable(3, 10.0, 20.0, 3.3).poses.numpy()
    large = render(scene, poses, 40.0, 512)
    small = render(scene, poses, 40.0, 32)
    shrunk = large.reshape(3, 32, 16, 32, 16, 3).mean((2, 4))
    assert np.abs(shrunk - small).mean() < 2
