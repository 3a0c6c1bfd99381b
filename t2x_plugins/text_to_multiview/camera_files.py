"""Camera files: our own `cameras.json`, and `transforms.json` of NeRF, instant-ngp and nerfstudio."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2x_core.errors import UserError, did_you_mean
from t2x_core.wording import quoted
from t2x_plugins.text_to_multiview.cameras import Cameras
from t2x_plugins.text_to_multiview.lenses import LENS_KEYS, Lens, read_lens, read_number
from t2x_plugins.text_to_multiview.rigs import Matrix

OWN = "cameras.json"
NERF = ("transforms.json", "transforms_train.json", "transforms_val.json", "transforms_test.json")
"""The first one alone, or those of the parts together."""
NEEDED = {
    "views": "a view has file, azimuth, elevation, distance (or camera_to_world for the three) and fov; distance "
    "and fov may stand beside the list, for all",
    "frames": "a frame has file_path and transform_matrix; camera_angle_x, or fl_x and w, stand in it or, for all, "
    "beside the list",
}
"""By the name of the list: what its rows hold."""
ROW_KEYS = LENS_KEYS | {"file_path", "transform_matrix", "mask_path", "time"}
"""Of a frame."""
NO_MATTER = frozenset(
    # where other programs put the scene in a space of their own, and what they did to it before they wrote the file
    ("scale", "offset", "aabb_scale", "render_aabb", "applied_transform", "applied_scale", "orientation_override")
) | {
    *("auto_scale_poses_override", "ply_file_path", "n_frames", "sharpness", "colmap_im_id", "depth_file_path"),
    *("rotation", "train_filenames", "val_filenames", "test_filenames", "integer_depth_scale", "enable_depth_loading"),
}
"""Keys that change nothing here."""
TABLE_KEYS = ROW_KEYS | {"frames", "caption", "captions", "up"}
LARGEST = 2**28
"""Bytes of a camera file."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of an object, as its camera file has it."""

    image: str
    """Its path as it is written, from the folder of the file."""
    matrix: Matrix
    """(4, 4), in the convention of the file."""
    lens: Lens
    mask: str | None = None
    """Path of an image that is black where the background is."""


@dataclass(frozen=True, eq=False)
class CameraFile:
    """What a camera file says."""

    frames: list[Frame]
    caption: Any = None
    placed: bool = False
    """Whether some cameras are given by angles, so that all matrices are in our own convention."""
    own: bool = False
    """Whether the file is one of ours: its cameras are then those of the upright images."""
    up: tuple[float, float, float] | None = None
    """The direction that points up, if the file says it."""
    unread: frozenset[str] = frozenset()
    """Keys that are not known here."""


def camera_files(names: list[str]) -> list[str]:
    """Which of the names in a folder are the camera files of one object; none if it is no object's folder."""
    if OWN in names:
        return [OWN]
    return [NERF[0]] if NERF[0] in names else [name for name in NERF if name in names]


def read_camera_files(folder: Path, names: list[str]) -> CameraFile:
    """Raises UserError with file (and line or frame) for what is wrong."""
    parts = [_read(folder / name) for name in names]
    return CameraFile(
        [frame for part in parts for frame in part.frames],
        next((part.caption for part in parts if part.caption is not None), None),
        any(part.placed for part in parts),
        parts[0].own,
        next((part.up for part in parts if part.up is not None), None),
        frozenset().union(*(part.unread for part in parts)),
    )


def _read(file: Path) -> CameraFile:
    table = _read_json(file)
    key = "views" if file.name == OWN else "frames"
    rows = table.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        wrong = "is not a list of JSON objects" if key in table else "is not there"
        hint = did_you_mean(key, table.keys() - {key}) or f"write a list with an object for each image; {NEEDED[key]}"
        raise UserError(f'the list "{key}" of cameras {wrong}', where=str(file), hint=hint)
    if not rows:
        raise UserError(f'the list "{key}" of cameras is empty', where=str(file), hint=NEEDED[key])
    frames = []
    for number, row in enumerate(rows):
        try:
            frames.append(_own_view(row, table) if key == "views" else _nerf_frame(row, table))
        except (KeyError, TypeError, ValueError) as error:
            said = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
            missing = NEEDED[key] if isinstance(error, KeyError) else None
            raise UserError(f"{key}[{number}]: {said}", where=str(file), hint=missing) from error
    caption = table.get("caption", table.get("captions"))
    if key == "views":
        return CameraFile(frames, caption, placed=any("camera_to_world" not in row for row in rows), own=True)
    times = {quoted(row["time"]) for row in rows if "time" in row}
    if len(times) > 1:
        raise UserError("the frames are of different times", where=str(file), hint="views of one moment are needed")
    unread = table.keys() - TABLE_KEYS - NO_MATTER
    unread |= {name for row in rows for name in row.keys() - ROW_KEYS - NO_MATTER}
    return CameraFile(frames, caption, up=_up(table, file), unread=frozenset(unread))


def _own_view(row: Mapping[str, Any], table: Mapping[str, Any]) -> Frame:
    """`file`, then `azimuth`, `elevation` (degrees) and `distance`, or `camera_to_world`; `fov` (degrees) of one or
    of all."""
    values = {**{key: table[key] for key in ("fov", "distance") if key in table}, **row}
    fov = read_number(values, "fov")
    if not 0 < fov < 180:
        raise ValueError(f"fov is {fov:g}, and must be an angle between 0 and 180 degrees")
    if "camera_to_world" in row:
        camera = read_matrix(row["camera_to_world"], "camera_to_world")
    else:
        angles = [read_number(row, key) for key in ("azimuth", "elevation")]
        distance = read_number(values, "distance")
        if abs(angles[1]) >= 90 or not 1e-9 <= distance <= 1e9:
            raise ValueError(f"elevation {angles[1]:g} must be within ±90 degrees, and distance {distance:g} above 0")
        numbers = torch.tensor([*angles, distance], dtype=torch.float64)
        camera = Cameras.from_angles(*numbers.unsqueeze(1)).poses[0].numpy()
    return Frame(_path(row, "file"), camera, Lens(angle=(math.radians(fov), None)))


def _nerf_frame(row: Mapping[str, Any], table: Mapping[str, Any]) -> Frame:
    for key in ("from_mitsuba", "from_na"):
        if table.get(key):
            raise ValueError(f"{key}: cameras of this convention cannot be used; convert them to NeRF's")
    matrix = read_matrix(row["transform_matrix"], "transform_matrix")
    mask = _path(row, "mask_path") if row.get("mask_path") is not None else None
    return Frame(_path(row, "file_path"), matrix, read_lens(row, table), mask)


def _path(row: Mapping[str, Any], key: str) -> str:
    path = row[key]
    if not isinstance(path, str) or not path.strip():
        raise ValueError(f"{key} must be the path of an image, not {quoted(path)}")
    if "\0" in path or not path.isprintable() or len(path) > 4000:
        raise ValueError(f"{key} cannot be the path of a file: {quoted(path)}")
    return path


def _up(table: Mapping[str, Any], file: Path) -> tuple[float, float, float] | None:
    """instant-ngp's `up`."""
    if table.get("up") is None:
        return None
    try:
        x, y, z = (read_number({"up": part}, "up") for part in table["up"])
        if math.hypot(x, y, z) < 1e-6:
            raise ValueError("up has no length")
    except (TypeError, ValueError) as error:
        raise UserError("up must be three numbers, the direction that points up", where=str(file)) from error
    return x, y, z


def read_matrix(value: Any, key: str) -> Matrix:
    """A camera's matrix (4, 4). Raises ValueError if it is none."""
    try:
        matrix = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{key} must be four rows of four numbers") from error
    if matrix.shape not in ((4, 4), (3, 4)):
        raise ValueError(f"{key} has the shape {matrix.shape}, and must have (4, 4)")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{key} holds numbers that are not finite")
    camera = np.eye(4)
    camera[: len(matrix)] = matrix
    if np.abs(camera).max() > 1e9:
        raise ValueError(f"{key} holds numbers above 1e9")
    if np.abs(camera[3] - (0, 0, 0, 1)).max() > 1e-6:
        turned = np.abs(camera[:, 3] - (0, 0, 0, 1)).max() < 1e-6
        why = "it is transposed" if turned else "its last row is not 0, 0, 0, 1"
        raise ValueError(f"{key} is no camera: {why}")
    volume = float(np.linalg.det(camera[:3, :3]))
    scale = abs(volume) ** (1 / 3)  # some tools write a scale, too
    if scale < 1e-6 or np.abs(camera[:3, :3] @ camera[:3, :3].T / scale**2 - np.eye(3)).max() > 0.01:
        raise ValueError(f"{key} is no camera: its first three columns are no rotation")
    if volume < 0:
        raise ValueError(f"{key} is no camera: it exchanges left and right (its determinant is negative)")
    return camera


def _read_json(file: Path) -> dict[str, Any]:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError("this camera file is no regular file", where=str(file))
        if status.st_size > LARGEST:
            raise UserError(f"this camera file has more than {LARGEST:,} bytes", where=str(file))
        table = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(f"this is not JSON ({error.msg})", where=f"{file}:{error.lineno}") from error
    except UnicodeDecodeError as error:
        raise UserError("this camera file is not UTF-8", where=str(file), hint="save it as UTF-8") from error
    except UserError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists in lists in lists
        raise UserError("this JSON cannot be read: too long a number, or too many brackets", where=str(file)) from error
    except OSError as error:
        raise UserError(f"this camera file cannot be read: {error.strerror}", where=str(file)) from error
    if not isinstance(table, dict):
        raise UserError("this camera file holds no JSON object", where=str(file))
    return table
