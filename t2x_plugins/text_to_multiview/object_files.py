"""Folders of objects: images, and from where each was taken."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import ExifTags, Image

from t2x_core.data.content import content_hash
from t2x_core.data.decode import SUFFIXES, image_size
from t2x_core.data.files import read_captions
from t2x_core.data.image_files import ImageFile, walk
from t2x_core.data.index import Finding
from t2x_core.errors import UserError
from t2x_core.media import Place, container, open_place
from t2x_plugins.text_to_multiview.camera_files import CameraFile, Frame, camera_files, read_camera_files
from t2x_plugins.text_to_multiview.lenses import Lens
from t2x_plugins.text_to_multiview.rigs import Matrix

USUAL = (".png", ".jpg", ".jpeg", ".webp")
"""Endings of images that are looked for first where a file names none."""


@dataclass(frozen=True, eq=False)
class Shot:
    """One image of an object, with what its camera file says of it."""

    file: ImageFile
    matrix: Matrix
    """(4, 4), in the convention of the file."""
    lens: Lens
    mask: ImageFile | None = None

    @property
    def files(self) -> tuple[ImageFile, ...]:
        """The image, and its mask if it has one."""
        return (self.file,) if self.mask is None else (self.file, self.mask)


@dataclass(frozen=True, eq=False)
class ObjectFiles:
    """An object: what is known of it before an image is opened."""

    name: str
    """Path of its folder below the folder of all."""
    shots: Sequence[Shot]
    captions: tuple[str, ...]
    cameras: CameraFile
    content: str
    """A hash of its camera files."""


@dataclass
class Found:
    """What a folder holds."""

    objects: list[ObjectFiles] = field(default_factory=list)
    refused: list[tuple[str, UserError]] = field(default_factory=list)
    """Objects by name that cannot be used, and why."""
    bare: list[str] = field(default_factory=list)
    """Folders with images that belong to no object, since none above them has a camera file."""


def list_objects(folder: Path) -> Found:
    """The objects in a folder and those below it, in the order of their names.

    An object is a folder with a camera file. Its captions are `caption` (a text, or several) in that file, or the lines
    of `caption.txt`, or of `<folder>.txt` beside the folder. Raises UserError if a folder cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}" if not folder.exists() else f"{folder} is not a folder")
    found = Found()
    for parent, folders, names in walk(folder):
        here = Path(parent)
        name = here.relative_to(folder).as_posix()
        files = camera_files(names)
        if files:
            folders.clear()  # what lies below belongs to this object
            try:
                found.objects.append(_read_object(here, files, name))
            except UserError as error:
                found.refused.append((name, error))
        elif here != folder and any(Path(file).suffix.lower() in SUFFIXES for file in names):
            found.bare.append(name)
    found.objects.sort(key=lambda thing: thing.name)
    return found


def _read_object(folder: Path, files: list[str], name: str) -> ObjectFiles:
    cameras = read_camera_files(folder, files)
    where = str(folder / files[0])
    finder, shots = _ImageFinder(folder, name), dict[str, Shot]()
    for frame in cameras.frames:
        try:
            shot = _shot(frame, finder)
        except (OSError, ValueError) as error:
            raise UserError(f"{frame.image[:80]} cannot be the path of an image", where=where) from error
        before = shots.setdefault(os.path.realpath(container(shot.file.place)), shot)
        if before is not shot and abs(before.matrix - shot.matrix).max() > 1e-6:
            raise UserError(f"{frame.image[:80]} has two cameras", where=where, hint="an image has one")
    content = "\0".join(content_hash(folder / file) for file in files)
    return ObjectFiles(name, list(shots.values()), _captions(folder, where, cameras.caption), cameras, content)


def _shot(frame: Frame, finder: _ImageFinder) -> Shot:
    return Shot(
        finder.find(frame.image), frame.matrix, frame.lens, None if frame.mask is None else finder.find(frame.mask)
    )


class _ImageFinder:
    """Finds images that a camera file names: without their ending, in another case, with backslashes."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self._names: dict[str, list[str]] = {}

    def find(self, name: str) -> ImageFile:
        """The image; of one that is not there, where it should be."""
        path = self._existing(name) or (self._existing(name.replace("\\", "/")) if "\\" in name else None)
        path = path or os.path.normpath(os.path.join(self.folder, name))
        return ImageFile(path, f"{self.name}/{Path(os.path.relpath(path, self.folder)).as_posix()}")

    def _existing(self, name: str) -> str | None:
        folder, name = os.path.split(os.path.normpath(os.path.join(self.folder, name)))
        if folder not in self._names:
            self._names[folder] = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        names = self._names[folder]
        if Path(name).suffix.lower() in SUFFIXES:
            fits = [name] if name in names else [other for other in names if other.lower() == name.lower()]
        else:
            endings = [(other, *os.path.splitext(other)) for other in names]
            images = [(other, stem, end.lower()) for other, stem, end in endings if end.lower() in SUFFIXES]
            same = [image for image in images if image[1] == name]
            same = same or [image for image in images if image[1].lower() == name.lower()]
            first = {end: i for i, end in enumerate(USUAL)}
            fits = [other for other, _, end in sorted(same, key=lambda image: first.get(image[2], len(USUAL)))]
        return os.path.join(folder, fits[0]) if fits else None


def _captions(folder: Path, where: str, written: object) -> tuple[str, ...]:
    if written is not None:
        texts = [written] if isinstance(written, str) else written
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UserError('"caption" must be a text or a list of texts', where=where)
        try:
            "".join(texts).encode()
        except UnicodeEncodeError as error:
            raise UserError('"caption" holds half a character (a lone surrogate)', where=where) from error
        return tuple(text.strip() for text in texts if text.strip())
    for text in (folder / "caption.txt", folder.with_name(f"{folder.name}.txt")):
        if text.is_file():
            return read_captions(text)
    return ()


def measure_view(place: Place, whole: bool) -> Finding:
    """The upright image's size; `frames` is its EXIF orientation, which says how its pixels were turned for that."""
    height, width = image_size(place, whole)
    with open_place(place) as stream, Image.open(stream) as image:
        try:
            exif = image.getexif() if whole else Image.Image.getexif(image)
            orientation = int(exif.get(ExifTags.Base.Orientation, 1))
        except Exception:  # as `decode` has it: damaged EXIF is no reason to give up the image
            orientation = 1
    return Finding(height, width, orientation if 1 <= orientation <= 8 else 1)
