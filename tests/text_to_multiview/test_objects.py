"""Training on objects of one's own: their files, their cameras, what is left out."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2x_core.errors import UserError
from t2x_core.interfaces import DataContext
from t2x_core.types import SampleKey
from t2x_plugins.text_to_multiview.cameras import Cameras
from t2x_plugins.text_to_multiview.object_files import list_objects
from t2x_plugins.text_to_multiview.objects import ObjectsData, ObjectSource, Thing
from t2x_plugins.text_to_multiview.objects_config import ObjectsConfig


def write_image(file: Path, level: int, width: int = 48, height: int = 48) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (level, 255 - level, 90)).save(file)


def write_object(folder: Path, views: int, caption: str | None = "a chair", **changes: object) -> None:
    """An object with our own camera file; the red of view i is 10·i."""
    rows = [
        {"file": f"{i:02d}.png", "azimuth": 360 * i / views, "elevation": 20, "distance": 3.0} for i in range(views)
    ]
    for i in range(views):
        write_image(folder / f"{i:02d}.png", 10 * i)
    table = {"fov": 40, "views": rows, **({} if caption is None else {"caption": caption}), **changes}
    (folder / "cameras.json").write_text(json.dumps(table))


def write_nerf(folder: Path, views: int) -> None:
    """As NeRF's synthetic scenes are: transforms.json, files without their ending, images with transparency."""
    frames = []
    for i in range(views):
        azimuth = 2 * math.pi * i / views
        file = folder / "train" / f"r_{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((40, 60, 4), np.uint8)
        pixels[10:30, 20:40] = (255, 0, 0, 255)
        Image.fromarray(pixels).save(file)
        camera = Cameras.from_angles(*torch.tensor([[math.degrees(azimuth)], [30.0], [4.0]]).double()).poses[0]
        frames.append({"file_path": f"./train/r_{i}", "rotation": 0.01, "transform_matrix": camera.tolist()})
    (folder / "transforms.json").write_text(json.dumps({"camera_angle_x": 0.6911, "frames": frames[::-1]}))
    (folder / "caption.txt").write_text("a red box\na box that is red\n")


def data_of(folder: Path, batch: int = 2, **settings: object) -> ObjectsData:
    config = ObjectsConfig(folder=folder, **{"size": 32, "views": 4, **settings})
    data = ObjectsData(config, DataContext(task="t", seed=0, pixel_multiple=4, global_batch=batch))
    data.prepare_data()
    data.setup("fit")
    return data


def key(id: int = 0, bucket: int = 0, step: int = 0) -> SampleKey:
    return SampleKey("t", bucket, id, step, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(6):
        write_object(tmp_path / f"thing_{i}", 8 if i % 2 else 4, caption=f"thing number {i}")
    return tmp_path


def test_a_sample_is_views_around_the_object_with_their_cameras(folder: Path) -> None:
    source = data_of(folder, distance=None).val_source()
    sample = source[key()]
    assert sample.pixels.shape == (3, 4, 32, 32)
    cameras = Cameras.from_extra(sample.extra)
    azimuth, elevation, distance = cameras.angles()
    torch.testing.assert_close(azimuth, torch.tensor([0.0, 90.0, 180.0, 270.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(elevation, torch.full((4,), 20.0))
    torch.testing.assert_close(distance, torch.full((4,), 3.0))
    torch.testing.assert_close(cameras.fov, torch.full((4,), 40.0))
    there = 8 if int(sample.caption[-1]) % 2 else 4
    reds = ((sample.pixels[0, :, 16, 16] + 1) * 127.5).round()
    assert reds.tolist() == [10.0 * (i * there // 4) for i in range(4)]


def test_training_turns_the_object_and_the_images_stay_with_their_cameras(folder: Path) -> None:
    for choose in ("evenly", "random"):
        source = data_of(folder, choose=choose).train_source()
        seen = set()
        for step in range(20):
            sample = source[key(id=step % source.buckets()[0].count, step=step)]
            azimuth, _, distance = Cameras.from_extra(sample.extra).angles()
            there = 8 if int(sample.caption[-1]) % 2 else 4
            reds = ((sample.pixels[0, :, 16, 16] + 1) * 127.5).round()
            torch.testing.assert_close(azimuth, reds / 10 * 360 / there, atol=1e-3, rtol=0)
            assert (azimuth.diff() > 0).all()
            torch.testing.assert_close(distance.mean(), torch.tensor(1.5))
            seen.add(tuple(azimuth.round().tolist()))
        assert len(seen) > (2 if choose == "random" else 1)
        again = source[key(id=1, step=1)]
        assert torch.equal(again.pixels, source[key(id=1, step=1)].pixels)


def test_several_numbers_of_views_are_buckets(folder: Path) -> None:
    data = data_of(folder, batch=1, views=(8, 4))
    buckets = data.train_source().buckets()
    assert [bucket.frames for bucket in buckets] == [4, 8]
    assert buckets[0].count == 5
    assert data.train_source()[key(bucket=1)].pixels.shape[1] == 8
    conditions = data.val_conditions(3)
    assert conditions.extra["cameras"].shape == (3, 8, 4, 4)


def test_nerf_files_are_read_as_they_are(tmp_path: Path) -> None:
    for i in range(3):
        write_nerf(tmp_path / "scenes" / f"lego_{i}", 6)
    things = list_objects(tmp_path).objects
    assert [thing.name for thing in things] == ["scenes/lego_0", "scenes/lego_1", "scenes/lego_2"]
    assert things[0].captions == ("a red box", "a box that is red")
    source = data_of(tmp_path, views=6).val_source()
    names = [view.file.name.rpartition("/")[2] for view in source.objects[0][1][0].views]
    assert names == [f"r_{i}.png" for i in range(6)]
    sample = source[key()]
    assert sample.pixels.shape == (3, 6, 32, 32)
    corner, middle = sample.pixels[:, 0, 0, 0], sample.pixels[:, 0, 16, 16]
    assert corner.tolist() == [1, 1, 1]  # white behind what is transparent
    torch.testing.assert_close(middle, torch.tensor([1.0, -1.0, -1.0]), atol=0.02, rtol=0)
    # 40 of 60 columns are left: the angle across them, by the same focal length
    focal = 30 / math.tan(0.6911 / 2)
    wanted = torch.full((6,), 2 * math.degrees(math.atan(20 / focal)))
    torch.testing.assert_close(Cameras.from_extra(sample.extra).fov, wanted)


def test_focal_lengths_in_pixels_and_a_world_with_y_up(tmp_path: Path) -> None:
    write_nerf(tmp_path / "a", 4)
    file = tmp_path / "a" / "transforms.json"
    table = json.loads(file.read_text())
    del table["camera_angle_x"]
    flip = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # z up → y up
    for frame in table["frames"]:
        frame["transform_matrix"] = (flip @ np.array(frame["transform_matrix"])).tolist()
    file.write_text(json.dumps({**table, "fl_x": 60.0, "w": 60}))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for up in ("y", "auto"):
        sample = data_of(tmp_path, batch=1, up=up, distance=None).val_source()[key()]
        cameras = Cameras.from_extra(sample.extra)
        torch.testing.assert_close(cameras.angles()[0], torch.tensor([0.0, 90, 180, 270]), atol=1e-3, rtol=0)
        torch.testing.assert_close(cameras.angles()[1], torch.full((4,), 30.0), atol=1e-3, rtol=0)
        torch.testing.assert_close(cameras.intrinsics, torch.tensor([1.5, 1.5, 0.5, 0.5]).expand(4, 4))


def test_what_cannot_be_used_is_left_out_by_name(folder: Path) -> None:
    write_object(folder / "thin", 2)
    write_object(folder / "blind", 4)
    (folder / "blind" / "cameras.json").unlink()
    write_object(folder / "broken", 8)
    (folder / "broken" / "03.png").write_bytes(b"")
    (folder / "broken" / "05.png").unlink()
    data = data_of(folder, max_bad_fraction=0.2)
    lines = "\n".join(data.describe())
    assert "1 folder with images and no camera file, passed over: blind" in lines
    assert "1 object has fewer than 4 views, left out: thin has 2" in lines
    assert "2 images cannot be read and are left out: broken/03.png is empty, broken/05.png is not there" in lines
    assert data.context.quarantine.named("t").keys() == {"broken/03.png", "broken/05.png"}
    with pytest.raises(UserError, match=r"2 of 46 images cannot be read, more than a share of 0.01"):
        data_of(folder, max_bad_fraction=0.01)


def test_a_image_that_breaks_later_is_replaced_with_its_object(folder: Path) -> None:
    data = data_of(folder, batch=1, max_bad_fraction=0.5)
    source = data.train_source()
    broken = source.name(key(0))
    for file in (folder / broken).glob("*.png"):
        file.write_bytes(b"nothing")
    sample = source[key(0)]
    assert sample.caption != f"thing number {broken[-1]}"
    assert torch.equal(sample.pixels, source[key(0)].pixels)
    assert all(name.startswith(broken) for name in data.context.quarantine.named("t"))


def change(folder: Path, **changes: object) -> None:
    file = folder / "thing_0" / "cameras.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


ROW = {"file": "00.png", "azimuth": 0, "elevation": 0, "distance": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": []}, 'the list "views" of cameras is empty'),
        ({"fov": 200}, "views\\[0\\]: fov is 200, and must be an angle between 0 and 180 degrees"),
        ({"views": [{"file": "00.png", "elevation": 0}]}, "views\\[0\\]: azimuth is missing; a view has file, azimuth"),
        ({"views": [{**ROW, "azimuth": "front"}]}, 'azimuth must be a number, not "front"'),
        ({"views": [{**ROW, "distance": None}]}, "distance must be a number, not null"),
        ({"views": [{**ROW, "elevation": math.nan}]}, "elevation must be a number, not NaN"),
        ({"views": [{**ROW, "camera_to_world": [[1, 0], 2]}]}, "camera_to_world must be four rows of four numbers"),
        ({"views": [ROW, {**ROW, "elevation": 90}]}, "views\\[1\\]: elevation 90 must be within ±90 degrees"),
        ({"views": [{**ROW, "camera_to_world": [[1, 0], [0, 1]]}]}, r"camera_to_world has the shape \(2, 2\)"),
        ({"views": [{**ROW, "camera_to_world": np.ones((4, 4)).tolist()}]}, "camera_to_world is no camera"),
        ({"caption": 3}, '"caption" must be a text or a list of texts'),
        ({"views": {}}, 'the list "views" of cameras is not a list'),
        ({"views": [{**ROW, "file": "a\0b"}]}, "file cannot be the path of a file"),
        ({"views": [{**ROW, "fov": 10**400}]}, "fov must be a number, not 1000"),
        ({"caption": "\ud83d"}, "half a character"),
    ],
)
def test_mistakes_in_a_camera_file_are_named_with_the_file(folder: Path, changes: dict, message: str) -> None:
    change(folder, **changes)
    with pytest.raises(UserError, match=message) as caught:
        data_of(folder, max_bad_fraction=0)
    assert str(folder / "thing_0") in caught.value.where
    data = data_of(folder)  # one object never stops a set
    assert "thing_0" not in {
        thing.name for source in (data.train_source(), data.val_source()) for thing in things(source)
    }
    assert len(things(data.train_source())) == 4
    (name, reason) = next(iter(data.context.quarantine.named("t").items()))
    assert name == "thing_0"
    assert re.search(message, reason)
    assert any(line.startswith("1 object cannot be used and is left out: thing_0") for line in data.describe())


def things(source: ObjectSource) -> Sequence[Thing]:
    return source.objects[0][1]


def test_other_mistakes(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder") as caught:
        data_of(tmp_path / "nowhere")
    assert caught.value.key == "folder"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there are no objects in"):
        data_of(tmp_path / "empty")
    (tmp_path / "empty" / "shoe").mkdir()
    (tmp_path / "empty" / "shoe" / "00.png").touch()
    with pytest.raises(UserError, match="empty; images only are in shoe; an object is a folder with"):
        data_of(tmp_path / "empty")
    shutil.rmtree(tmp_path / "empty")
    with pytest.raises(UserError, match=r"5 objects for training have 4 views .* fewer than a batch of 9"):
        data_of(folder, batch=9)
    write_object(folder / "mute", 4, caption=None)
    with pytest.raises(UserError, match="1 of 7 objects have no caption: mute"):
        data_of(folder)
    assert "left out: mute" in data_of(folder, missing_captions="skip").describe()[1]
    assert "instead: mute" in data_of(folder, missing_captions="empty").describe()[1]
    (folder / "thing_0" / "cameras.json").write_text('{"views": [\n1,,]}')
    with pytest.raises(UserError, match="this is not JSON") as caught:
        data_of(folder, max_bad_fraction=0)
    assert caught.value.where.endswith("thing_0/cameras.json:2")
