"""Objects of one's own as training data: several pictures of each, with the cameras that took them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from t2x_core import keyed
from t2x_core.data import stack
from t2x_core.data.damage import Damage, instead
from t2x_core.data.decode import DamagedPictureError, decode, fit_to
from t2x_core.data.index import Finding, examine
from t2x_core.data.picture_files import hold_out
from t2x_core.errors import UserError
from t2x_core.interfaces import DataContext, Source
from t2x_core.types import Batch, Bucket, Sample, SampleKey
from t2x_plugins.captioned.config import rgb
from t2x_plugins.captioned.own_files import UNSCORED, OwnFilesData
from t2x_plugins.text_to_multiview.cameras import Cameras
from t2x_plugins.text_to_multiview.object_files import ObjectFiles, View, list_objects, without_cameras
from t2x_plugins.text_to_multiview.objects_config import ObjectsConfig

SAME_FOV = 0.5
"""Largest difference, in degrees, between the fields of view of an object's pictures."""


class ObjectSource(Source):
    """Objects, in a bucket for each number of views.

    Args:
        objects: for each number of views, the objects that have as many.
        train: whether the views, if there are more, and the caption are drawn.
        damage: is told of pictures that cannot be read.
    """

    def __init__(
        self,
        objects: Sequence[tuple[int, Sequence[ObjectFiles]]],
        config: ObjectsConfig,
        seed: int,
        damage: Damage,
        train: bool,
    ) -> None:
        self.objects, self.config, self.seed, self.damage, self.train = list(objects), config, seed, damage, train

    def buckets(self) -> Sequence[Bucket]:
        size = self.config.size
        return [Bucket(views, size, size, len(objects)) for views, objects in self.objects]

    def __len__(self) -> int:
        return sum(len(objects) for _, objects in self.objects)

    def __getitem__(self, key: SampleKey) -> Sample:
        count, objects = self.objects[key.bucket]
        for id in instead(key, len(objects), self.seed):
            thing = objects[id]
            own = keyed.generator(self.seed, "object", key.attempt, key.step, key.slot)
            views = [thing.views[i] for i in self._choice(len(thing.views), count, own)]
            try:
                pixels = torch.cat([self._pixels(view) for view in views], 1)  # (3, F, H, W)
            except DamagedPictureError:
                continue  # named already
            word = torch.rand((), generator=own, dtype=torch.float64).item()
            caption = thing.captions[int(word * len(thing.captions)) if self.train else 0]
            return Sample(key, pixels, caption, cameras_of(views, self.config.distance).extra())
        raise UserError(f"none of the {len(objects)} objects with {count} views can be read any more")

    def _choice(self, there: int, count: int, own: torch.Generator) -> list[int]:
        """Which of the views, in the order of their azimuths."""
        if self.train and self.config.choose == "random":
            return sorted(torch.randperm(there, generator=own)[:count].tolist())
        start = int(torch.randint(there, (), generator=own)) if self.train else 0
        return sorted((start + i * there // count) % there for i in range(count))

    def _pixels(self, view: View) -> torch.Tensor:
        size = self.config.size
        try:
            picture = decode(view.file.path, rgb(self.config.background), covering=(size, size))
        except DamagedPictureError as error:
            self.damage.note([(view.file.name, str(error))])
            raise
        return fit_to(picture, size, size)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return stack(samples)

    def name(self, key: SampleKey) -> str:
        return self.objects[key.bucket][1][key.id].name


def cameras_of(views: Sequence[View], distance: float | None) -> Cameras:
    """The cameras of views, moved in or out until their mean distance from the origin is `distance`."""
    poses = torch.from_numpy(np.stack([view.camera for view in views]))  # (F, 4, 4) float64
    if distance is not None:
        away = poses[:, :3, 3].norm(dim=-1).mean()
        poses[:, :3, 3] *= distance / away
    focal = torch.tensor([0.5 / math.tan(view.fov / 2) for view in views], dtype=torch.float64)  # of square images
    middle = torch.full_like(focal, 0.5)
    return Cameras(poses, torch.stack((focal, focal, middle, middle), -1))


class ObjectsData(OwnFilesData[ObjectSource]):
    """One's own objects as training data."""

    def __init__(self, task: str, config: ObjectsConfig, context: DataContext) -> None:
        super().__init__(task, context)
        if config.size % context.pixel_multiple:
            raise UserError(
                f"{config.size} pixels must be a multiple of {context.pixel_multiple}", key="data.objects.size"
            )
        self.config = config

    def val_conditions(self, count: int) -> Batch:
        """First captions and cameras of the objects held out, over again if there are fewer; with the largest number
        of views that samples have."""
        views, objects = self.config.numbers[-1], self.sources()[1].objects[-1][1]
        chosen = [objects[i % len(objects)] for i in range(count)]
        cameras = [self._cameras(thing, views).extra() for thing in chosen]
        extra = {name: torch.stack([camera[name] for camera in cameras]) for name in cameras[0]}
        return Batch(
            self.task, tuple(thing.captions[0] for thing in chosen), extra={**extra, UNSCORED: torch.ones(count)}
        )

    def _cameras(self, thing: ObjectFiles, count: int) -> Cameras:
        there = len(thing.views)
        return cameras_of([thing.views[i * there // count] for i in range(count)], self.config.distance)

    def find(self) -> tuple[ObjectSource, ObjectSource]:
        return self._split(*self._good(self._captioned()))

    def _captioned(self) -> list[ObjectFiles]:
        """The objects, as the policy for missing captions has it."""
        try:
            found = list_objects(self.config.folder, self.config.up)
        except UserError as error:
            if error.where is None:
                error.key = "data.objects.folder"
            raise
        lacking = without_cameras(self.config.folder)
        some = ", ".join(lacking[:3]) + (" …" if lacking[3:] else "")
        if not found:
            raise UserError(
                f"there are no objects in {self.config.folder}" + (f"; pictures only are in {some}" if lacking else ""),
                key="data.objects.folder",
                hint="an object is a folder with pictures and a cameras.json or transforms.json",
            )
        if lacking:
            self.lines.append(f"{len(lacking)} folders with pictures have no camera file and are passed over: {some}")
        bare = [thing.name for thing in found if not thing.captions]
        if not bare:
            return found
        first = ", ".join(bare[:3]) + (" …" if len(bare) > 3 else "")
        if self.config.missing_captions == "error":
            raise UserError(
                f"{len(bare)} of {len(found)} objects have no caption: {first}",
                key="data.objects.missing_captions",
                hint="caption them, or write empty (to train them with the caption “”) or skip (to leave them out)",
            )
        if self.config.missing_captions == "skip":
            self.lines.append(f"{len(bare)} objects have no caption and are left out: {first}")
            return [thing for thing in found if thing.captions]
        self.lines.append(f"{len(bare)} objects have no caption and get “”: {first}")
        return [ObjectFiles(thing.name, thing.views, thing.captions or ("",)) for thing in found]

    def _good(self, objects: Sequence[ObjectFiles]) -> tuple[list[ObjectFiles], Damage]:
        """The objects without the pictures that cannot be read, their fields of view those of the square crop."""
        files = [view.file for thing in objects for view in thing.views]
        findings = examine(files, str(self.config.folder), self.config.check == "full")
        damage = Damage(
            *(self.task, len(files), self.config.max_bad_fraction, "pictures", "data.objects.max_bad_fraction"),
            self.context.quarantine,
        )
        damaged = [(file.name, finding.damage) for file, finding in zip(files, findings, strict=True) if finding.damage]
        damage.note(damaged)
        self.note_left_out(damaged, "pictures", "cannot be read", 2)
        of = iter(findings)
        good = []
        for thing in objects:
            pairs = [(view, next(of)) for view in thing.views]
            views = [_cropped(view, finding) for view, finding in pairs if finding.damage is None]
            spread = np.ptp([math.degrees(view.fov) for view in views]) if views else 0
            if spread > SAME_FOV:
                raise UserError(
                    f"the pictures of {thing.name} have different fields of view (by {spread:.1f} degrees)",
                    where=str(self.config.folder / thing.name),
                    hint="a sample needs one zoom: leave out the others",
                )
            good.append(ObjectFiles(thing.name, views, thing.captions))
        return good, damage

    def _split(self, objects: Sequence[ObjectFiles], damage: Damage) -> tuple[ObjectSource, ObjectSource]:
        numbers, need = self.config.numbers, self.context.global_batch
        few = [thing for thing in objects if len(thing.views) < numbers[0]]
        if few:
            first = ", ".join(f"{thing.name} has {len(thing.views)}" for thing in few[:3]) + (" …" if few[3:] else "")
            self.lines.append(f"{len(few)} objects have fewer than {numbers[0]} views and are left out: {first}")
        enough = [thing for thing in objects if len(thing.views) >= numbers[0]]
        apart = set(hold_out([thing.name for thing in enough], self.config.held_out)) if enough else set()
        train = [thing for i, thing in enumerate(enough) if i not in apart]
        held = [enough[i] for i in sorted(apart)][: self.config.val_count]
        buckets = [(n, [thing for thing in train if len(thing.views) >= n]) for n in numbers]
        for n, there in buckets:
            if len(there) < need:
                raise UserError(
                    f"{len(there)} objects for training have {n} views (of {len(objects)}, {len(held)} are held out): "
                    f"fewer than a batch of {need}",
                    key="data.objects.views",
                    hint=f"set trainer.global_batch to at most {max(1, len(there))}, or ask for fewer views",
                )
        val = [(n, [thing for thing in held if len(thing.views) >= n]) for n in numbers]
        counts = ", ".join(f"{n} views: {len(there)}" for n, there in buckets)
        size = self.config.size
        self.lines.insert(0, f"{len(train)} objects for training at {size}×{size} ({counts}), {len(held)} held out")
        seed = self.context.seed
        return (
            ObjectSource(buckets, self.config, seed, damage, train=True),
            ObjectSource([(n, there) for n, there in val if there], self.config, seed, damage, train=False),
        )


def _cropped(view: View, finding: Finding) -> View:
    """The view as it is after its picture has been cropped to a square: the angle across the shorter side."""
    focal = finding.width / (2 * math.tan(view.fov / 2))  # in pixels
    side = min(finding.height, finding.width)
    return View(view.file, view.camera, 2 * math.atan(side / (2 * focal)))
