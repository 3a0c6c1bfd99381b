"""Camera files in the dialects of other programs give the rays of a plain formula, or one line on what is wrong."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from t2x_core.errors import UserError
from t2x_core.interfaces import DataContext
from t2x_core.types import SampleKey
from t2x_plugins.text_to_multiview.cameras import Cameras
from t2x_plugins.text_to_multiview.objects import ObjectsData
from t2x_plugins.text_to_multiview.objects_config import ObjectsConfig
from tests.text_to_multiview.test_cameras import plain_pluecker

VIEWS, SIZE = 6, 16
FLIP = np.diag([1.0, -1, -1, 1])
QUIET = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def look_at(place, target=(0, 0, 0)) -> np.ndarray:
    """A camera that stands at `place` (z up) and looks at the target, in OpenGL's axes."""
    back = np.subtract(place, target) / np.linalg.norm(np.subtract(place, target))
    right = np.cross((0, 0, 1), back) / np.linalg.norm(np.cross((0, 0, 1), back))
    camera = np.eye(4)
    camera[:3] = np.stack((right, np.cross(back, right), back, place), 1)
    return camera


def ring(elevation=25.0, distance=2.0, start=0.0, views=VIEWS) -> list[np.ndarray]:
    e = math.radians(elevation)
    turns = [math.radians(start) + 2 * math.pi * i / views for i in range(views)]
    return [
        look_at(distance * np.array([math.cos(e) * math.sin(a), -math.cos(e) * math.cos(a), math.sin(e)]))
        for a in turns
    ]


def write(folder: Path, cameras: list, size=(40, 40), file="transforms.json", **table: object) -> dict:
    """An object, its images red in the left half, green in the right, blue by number of the view."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = []
    for i, camera in enumerate(cameras):
        pixels = np.zeros((size[1], size[0], 3), np.uint8)
        pixels[:, : size[0] // 2, 0], pixels[:, size[0] // 2 :, 1], pixels[..., 2] = 255, 255, 40 * i
        Image.fromarray(pixels).save(folder / f"{i}.png")
        frames.append({"file_path": f"{i}.png", "transform_matrix": np.asarray(camera).tolist()})
    written = {"camera_angle_x": 0.8, "frames": frames, "caption": "a thing", **table}
    written = {key: value for key, value in written.items() if value is not None}
    (folder / file).write_text(json.dumps(written))
    return written


def load(folder: Path, **options: object) -> ObjectsData:
    options = {"size": SIZE, "views": VIEWS, "distance": None, "max_bad_fraction": 0.5, **options}
    data = ObjectsData(
        ObjectsConfig(folder=folder, **options), DataContext(task="t", seed=0, pixel_multiple=4, global_batch=1)
    )
    data.prepare_data()
    return data


def sample_of(folder: Path, **options: object):
    return load(folder, **options).val_source()[SampleKey("t", 0, 0, 0, 0)]


def twice(folder: Path, *arguments: object, **table: object) -> Path:
    """Two objects alike: one to train on, one held out."""
    for name in "ab":
        write(folder / name, *arguments, **table)
    return folder


def check_rays(folder: Path, cameras: list, intrinsics, **options: object) -> None:
    """The rays of what is loaded are those of the cameras (in our convention, by azimuth), by a plain loop."""
    found = Cameras.from_extra(sample_of(folder, **options).extra).pluecker(3, 5).numpy()
    for i, camera in enumerate(cameras):
        wanted = plain_pluecker(camera, intrinsics[i] if np.ndim(intrinsics) == 2 else intrinsics, 3, 5)
        np.testing.assert_allclose(found[:, i], wanted, atol=3e-5 * max(1, np.abs(wanted).max()))


@QUIET
@given(
    axes=st.sampled_from(["opengl", "opencv"]),
    poses=st.sampled_from(["camera-to-world", "world-to-camera"]),
    up=st.sampled_from(["z", "y", "-y"]),
    far=st.tuples(*[st.floats(-30, 30)] * 3),
    elevation=st.floats(5, 50),
    distance=st.floats(0.5, 5),
    scale=st.sampled_from([1.0, 0.3]),
    size=st.sampled_from([(40, 40), (60, 40), (41, 59)]),
    focal=st.tuples(st.floats(0.6, 2), st.floats(0.6, 2)),
    middle=st.tuples(st.floats(0.2, 0.8), st.floats(0.2, 0.8)),
    shrink=st.sampled_from([1.0, 2.0, 4.0]),
    by_setting=st.booleans(),
)
def test_any_convention_gives_the_rays_of_the_formula(
    tmp_path_factory, axes, poses, up, far, elevation, distance, scale, size, focal, middle, shrink, by_setting
):
    folder, cameras = tmp_path_factory.mktemp("objects"), ring(elevation, distance, 7.0)
    world = np.eye(4)  # from our world into the file's
    world[:3, :3] = {
        "z": np.eye(3),
        "y": np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]),
        "-y": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]),
    }[up]
    world[:3, 3] = far
    written = [world @ camera for camera in cameras]
    written = [camera @ FLIP if axes == "opencv" else camera for camera in written]
    written = [np.linalg.inv(camera) if poses == "world-to-camera" else camera for camera in written]
    if poses == "camera-to-world":
        written = [camera @ np.diag([scale, scale, scale, 1]) for camera in written]
    width, height = size
    w, h = shrink * width, shrink * height
    fx, fy, cx, cy = focal[0] * w, focal[1] * w, middle[0] * w, middle[1] * h  # in pixels of w × h
    lens = {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": w, "h": h, "camera_angle_x": None}
    twice(folder, written, size, **lens)
    lines = load(folder).describe()
    by_setting = by_setting or any("may be of several conventions; set axes and poses" in line for line in lines)
    chosen = {"axes": axes, "poses": poses, "up": up, "center": far} if by_setting else {}
    # by hand: resized so that the shorter side is SIZE, then cropped in the middle
    scale_ = SIZE / min(size)
    new = [max(SIZE, round(side * scale_)) for side in size]
    left, top = (round((side - SIZE) / 2) for side in new)
    sx, sy = new[0] / w, new[1] / h
    intrinsics = [fx * sx / SIZE, fy * sy / SIZE, (cx * sx - left) / SIZE, (cy * sy - top) / SIZE]
    centred = by_setting or np.linalg.norm(far) > 0.1 * distance
    if not centred:
        cameras = [np.eye(4) @ camera for camera in cameras]
        shift = np.linalg.inv(world[:3, :3]) @ far
        for camera in cameras:
            camera[:3, 3] += shift
        cameras.sort(key=lambda camera: math.atan2(camera[0, 3], -camera[1, 3]) % (2 * math.pi))
    check_rays(folder, cameras, intrinsics, **chosen)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["frames", "w", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
PLACES = (
    "frames",
    "camera_angle_x",
    "fl_x",
    "fl_y",
    "cx",
    "cy",
    "w",
    "h",
    "k1",
    "camera_model",
    "caption",
    "up",
    "time",
)
OF_A_FRAME = ("file_path", "transform_matrix", "mask_path", "fl_x", "camera_angle_x", "w", "h", "cx", "p1", "time")


@settings(parent=QUIET, max_examples=60)
@given(
    table=st.dictionaries(st.sampled_from(PLACES), JUNK, max_size=2),
    frame=st.dictionaries(st.sampled_from(OF_A_FRAME), JUNK, max_size=2),
    cell=st.none() | st.tuples(st.integers(0, 3), st.integers(0, 3), st.floats() | st.just(1e300) | st.just(0.0)),
)
def test_garbage_is_quarantined_and_never_trained(tmp_path_factory, table, frame, cell):
    folder = tmp_path_factory.mktemp("objects")
    twice(folder, ring())
    good = write(folder / "c", ring())
    bad = copy.deepcopy(good)
    bad["frames"][1] |= frame
    if cell is not None and isinstance(bad["frames"][1].get("transform_matrix"), list):
        bad["frames"][1]["transform_matrix"] = np.array(good["frames"][1]["transform_matrix"]).tolist()
        bad["frames"][1]["transform_matrix"][cell[0]][cell[1]] = cell[2]
    (folder / "c" / "transforms.json").write_text(json.dumps(bad | table))
    data = load(folder, views=2, missing_captions="empty")  # one object never stops a set
    named = data.context.quarantine.named("t")
    for source in (data.train_source(), data.val_source()):
        for i in range(len(source)):
            sample = source[SampleKey("t", 0, i, 0, 0)]
            assert Cameras.from_extra(sample.extra).pluecker(4).isfinite().all()
            assert source.name(sample.key) not in named
    assert all("\n" not in reason for reason in named.values())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"camera_model": "OPENCV_FISHEYE"}, 'camera_model is "OPENCV_FISHEYE", and only pinholes can be used'),
        ({"is_fisheye": True}, "is_fisheye: only pinholes"),
        ({"k1": 0.01}, r"the lens distorts \(k1\); undistort the images first"),
        ({"p2": 0.01, "k1": 0.0}, r"the lens distorts \(p2\)"),
        ({"rolling_shutter": [0, 0, 0.1, 0]}, "rolling_shutter"),
        ({"camera_angle_x": 40.0}, "must be an angle between 0 and 3.14"),
        ({"camera_angle_x": None}, "camera_angle_x is missing"),
        ({"fl_x": 20.0, "w": 40, "h": 40}, "fl_x and w say 90.0 degrees, and camera_angle_x 45.8"),
        ({"w": 400, "h": 300, "fl_x": 473}, "w and h say 400×300 pixels, and the image has 40×40"),
        ({"fl_x": -5}, "fl_x is -5, and must be above 0"),
        ({"camera_angle_x": None, "fl_x": 1e-3}, "a field of view of 180 degrees along x is not that of a pinhole"),
        ({"frames": []}, 'the list "frames" of cameras is empty'),
        ({"frames": None, "frame": []}, 'the list "frames" of cameras is not there; did you mean "frame"?'),
        ({"up": [0, 0, 0]}, "up must be three numbers"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_object(tmp_path, table, message):
    twice(tmp_path, ring())
    write(tmp_path / "c", ring(), **table)
    data = load(tmp_path)
    assert [source.name(SampleKey("t", 0, 0, 0, 0)) for source in (data.train_source(), data.val_source())] != [
        "c",
        "c",
    ]
    with pytest.raises(UserError, match=message):
        load(tmp_path, max_bad_fraction=0)
    assert list(data.context.quarantine.named("t")) == ["c"]
    load(tmp_path, max_bad_fraction=1e-4)  # a bad object is no bad image


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m @ np.diag([-1.0, 1, 1, 1]), "it exchanges left and right"),
        (lambda m: m @ np.diag([1.0, 1.2, 1, 1]), "no rotation"),
        (lambda m: m.T, "it is transposed"),
        (lambda m: m * 0, "last row is not 0, 0, 0, 1"),
        (lambda m: np.where(m == m[0, 0], np.nan, m), "not finite"),
        (lambda m: m[:2], r"has the shape \(2, 4\)"),
    ],
)
def test_matrices_that_are_no_cameras_are_refused(tmp_path, change, message):
    twice(tmp_path, ring())
    write(tmp_path / "c", [change(camera) for camera in ring(start=10)])
    with pytest.raises(UserError, match=message):
        load(tmp_path, max_bad_fraction=0)
    assert list(load(tmp_path).context.quarantine.named("t")) == ["c"]


@pytest.mark.parametrize("orientation", [6, 8])
def test_cameras_of_images_as_they_lie_are_turned_upright_with_them(tmp_path, orientation):
    """A phone held upright stores its image lying, with a note; the camera file is of the stored pixels."""
    for name in "ab":
        upright = ring(start=5)
        # by hand: the stored image's right is the upright one's down (6) or up (8)
        lying = [c[:, [1, 0, 2, 3]] * ([-1, 1, 1, 1] if orientation == 6 else [1, -1, 1, 1]) for c in upright]
        lens = {"fl_x": 50, "fl_y": 60, "cx": 20, "cy": 18, "w": 48, "h": 32, "camera_angle_x": None}
        write(tmp_path / name, lying, (48, 32), **lens)
        exif = Image.Exif()
        exif[274] = orientation
        for i in range(VIEWS):
            Image.open(tmp_path / name / f"{i}.png").save(tmp_path / name / f"{i}.png", exif=exif)
    # upright: 32 wide, 48 high
    cx, cy = (32 - 18, 20) if orientation == 6 else (18, 48 - 20)
    check_rays(tmp_path, upright, [60 / 32, 50 / 32, cx / 32, (cy - 8) / 32])
    written = json.loads((tmp_path / "a" / "transforms.json").read_text())
    del written["w"], written["h"]
    (tmp_path / "a" / "transforms.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match="w and h do not say whether the camera is that of the image before or after"):
        load(tmp_path, max_bad_fraction=0)


def test_intrinsics_of_a_frame_go_before_those_of_all(tmp_path):
    for name in "ab":
        table = write(tmp_path / name, ring(start=5), (40, 40))
        for i, frame in enumerate(table["frames"]):
            frame |= {"fl_x": 40 * (1 + i), "w": 40, "h": 40}
        (tmp_path / name / "transforms.json").write_text(json.dumps(table))
    check_rays(tmp_path, ring(start=5), [[1 + i, 1 + i, 0.5, 0.5] for i in range(VIEWS)])
    assert any("fields of view of 9.5 to 53.1 degrees" in line for line in load(tmp_path).describe())


def test_parts_names_masks_and_links(tmp_path):
    """transforms_train and _test together; backslashes, no ending, another case; a mask; a link upwards."""
    for name in "ab":
        here = tmp_path / name
        table = write(here, ring(start=5))
        for i in range(VIEWS):
            (here / "Train").mkdir(exist_ok=True)
            (here / f"{i}.png").rename(here / "Train" / f"R.{i}.PNG")
            table["frames"][i]["file_path"] = [f"./Train/R.{i}", f"Train\\R.{i}.png", f"Train/r.{i}"][i % 3]
        Image.fromarray(np.pad(np.full((20, 20), 255, np.uint8), 10)).save(here / "mask.png")
        table["frames"][2]["mask_path"] = "mask.png"
        (here / "transforms.json").unlink()
        for part, rows in (("train", slice(0, 4)), ("test", slice(3, None))):
            (here / f"transforms_{part}.json").write_text(json.dumps({**table, "frames": table["frames"][rows]}))
    (tmp_path / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b" / "again").symlink_to(tmp_path / "a", target_is_directory=True)
    data = load(tmp_path)
    assert (len(data.train_source()), len(data.val_source())) == (1, 1)
    pixels = data.val_source()[SampleKey("t", 0, 0, 0, 0)].pixels
    assert ((pixels[2, :, 8, 8] + 1) * 127.5 / 40).round().tolist() == list(range(VIEWS))
    assert pixels[:, 2, 1, 1].tolist() == [1, 1, 1]  # masked: the background, white
    assert pixels[:, 1, 1, 1].tolist() != [1, 1, 1]
    assert pixels[0, 2, 8, 6] > 0.9


@pytest.mark.parametrize(
    ("cameras", "options", "line"),
    [
        ([c @ FLIP for c in ring()], {}, "cameras read as opencv camera-to-world; up is z; the centre is the origin"),
        ([c @ FLIP for c in ring()], {"axes": "opengl"}, "warning: cameras look away from the object: 2 objects, a, b; "
         "they fit axes: opencv, poses: camera-to-world"),
        ([np.linalg.inv(c) for c in ring()], {}, "cameras read as opengl world-to-camera; up is z"),
        ([np.linalg.inv(c) for c in ring()], {"poses": "camera-to-world"}, "they fit axes: opengl, poses: world-to-c"),
        ([look_at(c[:3, 3] + 7, (7, 7, 7)) for c in ring()], {}, "the centre is where the cameras look"),
        ([look_at(c[:3, 3] + 7, (7, 7, 7)) for c in ring()], {"center": "origin"}, "cameras look at a point far from"),
        ([look_at(c[:3, 3]) for c in ring()], {"up": "y"}, "warning: cameras are held level about another direction"),
        ([look_at((3 * i, -9, 1), (3 * i, 0, 1)) for i in range(6)], {}, "cameras look nearly the same way"),
        ([look_at((i, i**2, 1), (7 - 3 * i, 5 * i % 4, i)) for i in range(6)], {}, "do not look at one point"),
    ],
)  # fmt: skip
def test_what_the_cameras_look_at_is_said_once_and_what_is_impossible_warned_of(tmp_path, cameras, options, line):
    lines = load(twice(tmp_path, cameras), **options).describe()
    assert sum(line in said for said in lines) == 1, lines
    assert any(said.startswith("warning: ") for said in lines) == (
        "warning" in line or not line.startswith(("cameras read", "the c"))
    ), lines


def test_cameras_by_angles_are_ours_whatever_the_settings_for_others(tmp_path):
    for name in "ab":
        rows = [{"file": f"{i}.png", "azimuth": 60 * i, "elevation": 30, "distance": 2} for i in range(VIEWS)]
        write(tmp_path / name, ring(), file="cameras.json", views=rows, fov=40)
    cameras = Cameras.from_extra(sample_of(tmp_path, up="y", axes="opencv").extra)
    torch.testing.assert_close(cameras.angles()[1], torch.full((VIEWS,), 30.0))
    torch.testing.assert_close(cameras.angles()[0], torch.arange(0, 360, 60.0), atol=1e-3, rtol=0)


def test_keys_that_nobody_knows_are_named_once(tmp_path):
    lines = load(twice(tmp_path, ring(), aabb_scale=4, lens_cap=True)).describe()
    assert "keys of camera files that are not known and change nothing: lens_cap" in lines
