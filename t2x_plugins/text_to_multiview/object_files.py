"""Folders of objects: pictures, and from where each was taken.

Cameras are those of `cameras.py`: matrices from camera to world in the axes of OpenGL, Blender and NeRF; the world's z
points up, and the object stands at its origin.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from t2x_core.data.decode import SUFFIXES
from t2x_core.data.picture_files import PictureFile, read_captions
from t2x_core.errors import UserError, did_you_mean
from t2x_plugins.text_to_multiview.cameras import Cameras

Matrix = NDArray[np.float64]

CAMERA_FILES = ("cameras.json", "transforms.json")
"""Names of the camera file of an object, in the order in which they are looked for."""
NEEDED = {
    "views": "a view has file, azimuth, elevation, distance (or camera_to_world for the three) and fov; distance "
    "and fov may stand beside the list, for all",
    "frames": "a frame has file_path and transform_matrix; camera_angle_x, or fl_x and w, stand in it or, for all, "
    "beside the list",
}
"""By the name of the list: what its rows hold."""
Y_UP = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
"""Turns a world whose y points up into one whose z does."""


@dataclass(frozen=True, eq=False)
class View:
    """One picture of an object."""

    file: PictureFile
    camera: Matrix
    """(4, 4) from camera to world."""
    fov: float
    """Angle that the picture's width spans, in radians."""

    @property
    def azimuth(self) -> float:
        """Of the camera, in degrees, 0 at -y, counter-clockwise seen from above."""
        return math.degrees(math.atan2(self.camera[0, 3], -self.camera[1, 3])) % 360


@dataclass(frozen=True, eq=False)
class ObjectFiles:
    """An object: what is known of it before a picture is opened."""

    name: str
    """Path of its folder below the folder of all."""
    views: Sequence[View]
    captions: tuple[str, ...]


def list_objects(folder: Path, up: str = "z") -> list[ObjectFiles]:
    """The objects in a folder and those below it, in the order of their names.

    An object is a folder with a camera file. Its captions are `caption` (a text, or several) in that file, or the lines
    of `caption.txt`, or of `<folder>.txt` beside the folder. Raises UserError with file (and line) for what is wrong.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}" if not folder.exists() else f"{folder} is not a folder")
    objects = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found = next((name for name in CAMERA_FILES if name in names), None)
        if found:
            here = Path(parent)
            objects.append(_read_object(here, found, here.relative_to(folder).as_posix(), up))
            folders.clear()  # what lies below belongs to this object
    return sorted(objects, key=lambda thing: thing.name)


def without_cameras(folder: Path) -> list[str]:
    """Folders below `folder` that hold pictures and belong to no object, since none above them has a camera file."""
    bare = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(name in names for name in CAMERA_FILES):
            folders.clear()
        elif Path(parent) != folder and any(Path(name).suffix.lower() in SUFFIXES for name in names):
            bare.append(Path(parent).relative_to(folder).as_posix())
    return bare


def _read_object(folder: Path, camera_file: str, name: str, up: str) -> ObjectFiles:
    file = folder / camera_file
    table = _read_json(file)
    key = "views" if camera_file == "cameras.json" else "frames"
    rows = table.get(key)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        hint = did_you_mean(key, table) or f'write "{key}": [{{"file": …}}, …]'
        raise UserError(f'there is no list "{key}" of cameras', where=str(file), hint=hint)
    read = _own_view if key == "views" else _nerf_view
    views = []
    for number, row in enumerate(rows):
        try:
            picture, camera, fov = read(row, table)
        except (KeyError, TypeError, ValueError) as error:
            said = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
            missing = NEEDED[key] if isinstance(error, KeyError) else None
            raise UserError(f"{key}[{number}]: {said}", where=str(file), hint=missing) from error
        path = _with_suffix(folder / picture)
        shown = f"{name}/{Path(os.path.relpath(path, folder)).as_posix()}"
        views.append(View(PictureFile(str(path), shown), Y_UP @ camera if up == "y" else camera, fov))
    return ObjectFiles(name, sorted(views, key=lambda view: view.azimuth), _captions(folder, file, table))


def _own_view(row: Mapping[str, Any], table: Mapping[str, Any]) -> tuple[str, Matrix, float]:
    """`file`, then `azimuth`, `elevation` (degrees) and `distance`, or `camera_to_world`; `fov` (degrees) of one or
    of all."""
    told = {**{key: table[key] for key in ("fov", "distance") if key in table}, **row}
    fov = _number(told, "fov")
    if not 0 < fov < 180:
        raise ValueError(f"fov is {fov:g}, and must be an angle between 0 and 180 degrees")
    if "camera_to_world" in row:
        camera = _matrix(row["camera_to_world"], "camera_to_world")
    else:
        angles = [_number(row, key) for key in ("azimuth", "elevation")]
        distance = _number(told, "distance")
        if abs(angles[1]) >= 90 or distance <= 0:
            raise ValueError(f"elevation {angles[1]:g} must be within ±90 degrees, and distance {distance:g} above 0")
        numbers = torch.tensor([*angles, distance], dtype=torch.float64)
        camera = Cameras.from_angles(*numbers.unsqueeze(1)).poses[0].numpy()
    return str(row["file"]), camera, math.radians(fov)


def _nerf_view(row: Mapping[str, Any], table: Mapping[str, Any]) -> tuple[str, Matrix, float]:
    """A frame of NeRF's `transforms.json`; the angle is `camera_angle_x`, or follows from `fl_x` and `w`."""
    camera = _matrix(row["transform_matrix"], "transform_matrix")
    told = {**table, **row}
    if "camera_angle_x" not in told and "fl_x" in told and "w" in told:
        return str(row["file_path"]), camera, 2 * math.atan(_number(told, "w") / (2 * _number(told, "fl_x")))
    fov = _number(told, "camera_angle_x")
    if not 0 < fov < math.pi:
        raise ValueError(f"camera_angle_x is {fov:g}, and must be an angle between 0 and 3.14 (radians)")
    return str(row["file_path"]), camera, fov


def _number(row: Mapping[str, Any], key: str) -> float:
    try:
        number = float(row[key])
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{key} must be a number, not {json.dumps(row[key])}")
    return number


def _matrix(value: Any, key: str) -> Matrix:
    try:
        matrix = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key} must be four rows of four numbers") from error
    if matrix.shape not in ((4, 4), (3, 4)):
        raise ValueError(f"{key} has the shape {matrix.shape}, and must have (4, 4)")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{key} holds numbers that are not finite")
    camera = np.eye(4)
    camera[:3] = matrix[:3]
    turn = camera[:3, :3] / np.cbrt(abs(np.linalg.det(camera[:3, :3])) or 1.0)  # some tools write a scale, too
    if np.linalg.det(turn) < 0 or np.abs(turn @ turn.T - np.eye(3)).max() > 0.01:
        raise ValueError(f"{key} is no camera: its first three columns are no rotation")
    camera[:3, :3] = turn
    return camera


def _with_suffix(path: Path) -> Path:
    """NeRF's files name pictures without their ending."""
    if path.suffix.lower() in SUFFIXES:
        return path
    return next((p for s in (".png", ".jpg", ".jpeg", ".webp") if (p := path.with_name(path.name + s)).exists()), path)


def _captions(folder: Path, file: Path, table: Mapping[str, Any]) -> tuple[str, ...]:
    told = table.get("caption", table.get("captions"))
    if told is not None:
        texts = [told] if isinstance(told, str) else told
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UserError('"caption" must be a text or a list of texts', where=str(file))
        return tuple(text.strip() for text in texts if text.strip())
    for text in (folder / "caption.txt", folder.with_name(f"{folder.name}.txt")):
        if text.is_file():
            return read_captions(text)
    return ()


def _read_json(file: Path) -> dict[str, Any]:
    try:
        table = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(f"this is not JSON ({error.msg})", where=f"{file}:{error.lineno}") from error
    except UnicodeDecodeError as error:
        raise UserError("this camera file is not UTF-8", where=str(file), hint="save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"this camera file cannot be read: {error.strerror}", where=str(file)) from error
    if not isinstance(table, dict):
        raise UserError("this camera file holds no JSON object", where=str(file))
    return table
