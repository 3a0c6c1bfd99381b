"""Objects of one's own as training data: several images of each, with the cameras that took them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional as transforms

from t2x_core import keyed
from t2x_core.data import stack
from t2x_core.data.damage import Damage
from t2x_core.data.decode import DECODING, DamagedImageError, decode, fit_to
from t2x_core.data.image_files import hold_out
from t2x_core.data.index import Finding, examine
from t2x_core.errors import UnreadableError, UserError
from t2x_core.interfaces import DataContext, DataSource, Source
from t2x_core.inventory import Inventory
from t2x_core.source import Identify
from t2x_core.types import Batch, Bucket, Sample, SampleKey, Variation
from t2x_core.wording import counted, first_of, shorten
from t2x_plugins.captioned.captioned_config import rgb
from t2x_plugins.captioned.own_files import OwnFilesData
from t2x_plugins.text_to_multiview.cameras import Cameras
from t2x_plugins.text_to_multiview.object_files import Found, ObjectFiles, list_objects, measure_view
from t2x_plugins.text_to_multiview.object_inventory import objects_inventory
from t2x_plugins.text_to_multiview.objects_config import ObjectsConfig
from t2x_plugins.text_to_multiview.placement import Readable, View, place


@dataclass(frozen=True, eq=False)
class Thing:
    """An object to train on."""

    name: str
    views: Sequence[View]
    """In the order of their azimuths."""
    captions: tuple[str, ...]
    content: str
    """Hashes of its camera files, its images and their masks."""


class ObjectSource(Source):
    """Objects, in a bucket for each number of views.

    Args:
        objects: for each number of views, the objects that have as many.
        train: whether the views, if there are more, and the caption are drawn.
        damage: where images that cannot be read are reported.
    """

    def __init__(
        self,
        objects: Sequence[tuple[int, Sequence[Thing]]],
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

    def vary(self, key: SampleKey) -> Variation:
        thing = self._thing(key)
        own = keyed.generator(self.seed, "object", key.attempt, key.step, key.slot)
        views = self._choice(len(thing.views), self.objects[key.bucket][0], own)
        word = torch.rand((), generator=own, dtype=torch.float64).item()
        return Variation(key, tuple(views), thing.captions[int(word * len(thing.captions)) if self.train else 0])

    def load(self, variation: Variation) -> Sample:
        assert variation.caption is not None
        views = self._views(variation)
        try:
            pixels = torch.cat([self._pixels(view) for view in views], 1)  # (3, F, H, W)
        except DamagedImageError as error:
            raise UnreadableError from error  # named already
        return Sample(variation.key, pixels, variation.caption, cameras_of(views, self.config.distance).extra())

    def fingerprint(self, variation: Variation, identify: Identify) -> tuple[Any, ...]:
        config = self.config
        views = [
            (*(None if file is None else identify(file.place) for file in (view.file, view.mask)), *_camera(view))
            for view in self._views(variation)
        ]
        return "object", DECODING, views, config.size, config.background, config.distance

    def captions(self, key: SampleKey) -> Sequence[str]:
        captions = self._thing(key).captions
        return captions if self.train else captions[:1]

    def _thing(self, key: SampleKey) -> Thing:
        return self.objects[key.bucket][1][key.id]

    def _views(self, variation: Variation) -> list[View]:
        """Those that were chosen."""
        thing = self._thing(variation.key)
        return [thing.views[i] for i in variation.choices]

    def _choice(self, there: int, count: int, own: torch.Generator) -> list[int]:
        """Which of the views, in the order of their azimuths."""
        if self.train and self.config.choose == "random":
            return sorted(torch.randperm(there, generator=own)[:count].tolist())
        start = int(torch.randint(there, (), generator=own)) if self.train else 0
        return sorted((start + i * there // count) % there for i in range(count))

    def _pixels(self, view: View) -> torch.Tensor:
        size, background = self.config.size, rgb(self.config.background)
        file = view.file
        try:
            image = decode(file.place, background, covering=(size, size))
            if view.mask is not None:
                file = view.mask
                image = masked(image, decode(file.place, (0, 0, 0)), background)
        except DamagedImageError as error:
            self.damage.note([(file.name, str(error))])
            raise
        return fit_to(image, size, size)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return stack(samples)

    def name(self, key: SampleKey) -> str:
        return self.objects[key.bucket][1][key.id].name

    def content(self, key: SampleKey) -> str:
        thing = self.objects[key.bucket][1][key.id]
        return "\0".join((thing.content, *thing.captions))


def _camera(view: View) -> tuple[Any, ...]:
    """Plain values."""
    return view.camera.tolist(), [float(value) for value in view.intrinsics]


def masked(image: torch.Tensor, mask: torch.Tensor, background: tuple[int, int, int]) -> torch.Tensor:
    """The image (3, H, W) uint8 with the background where the mask (3, h, w) uint8 is black."""
    if mask.shape != image.shape:
        mask = transforms.resize(mask, list(image.shape[1:]))
    share = mask[:1].float() / 255
    behind = torch.tensor(background, dtype=torch.float32)[:, None, None]
    return (image * share + behind * (1 - share)).round().to(torch.uint8)


def cameras_of(views: Sequence[View], distance: float | None) -> Cameras:
    """The cameras of views, moved in or out until their mean distance from the origin is `distance`."""
    poses = torch.from_numpy(np.stack([view.camera for view in views]))  # (F, 4, 4) float64
    if distance is not None:
        away = poses[:, :3, 3].norm(dim=-1).mean()
        poses[:, :3, 3] *= distance / away
    return Cameras(poses, torch.tensor([view.intrinsics for view in views], dtype=torch.float64))


class ObjectsData(OwnFilesData[ObjectSource]):
    """One's own objects as training data."""

    def __init__(self, config: ObjectsConfig, context: DataContext) -> None:
        super().__init__(context)
        self.config = config

    def val_conditions(self, count: int) -> Batch:
        """First captions and cameras of the objects held out, over again if there are fewer; with the largest number
        of views that samples have."""
        views, objects = self.config.numbers[-1], self.sources()[1].objects[-1][1]
        chosen = [objects[i % len(objects)] for i in range(count)]
        cameras = [self._cameras(thing, views).extra() for thing in chosen]
        extra = {name: torch.stack([camera[name] for camera in cameras]) for name in cameras[0]}
        return Batch(self.context.task, tuple(thing.captions[0] for thing in chosen), extra=extra)

    def _cameras(self, thing: Thing, count: int) -> Cameras:
        there = len(thing.views)
        return cameras_of([thing.views[i * there // count] for i in range(count)], self.config.distance)

    def inventory(self) -> Inventory:
        return objects_inventory(self.folder, self.config)

    def find(self) -> tuple[ObjectSource, ObjectSource]:
        self.refused: list[tuple[str, UserError]] = []
        found = self._listed()
        readable, damage = self._readable(self._captioned(found.objects))
        placed = place(readable, self.config)
        self._refuse(found, [(name, UserError(why)) for name, why in placed.refused])
        damage.others |= {name for name, _ in self.refused}
        self.lines += placed.lines
        views_of = zip(readable, placed.views, strict=True)
        things = [Thing(of.thing.name, views, of.thing.captions, of.content) for of, views in views_of if views]
        return self._split(things, damage)

    @property
    def folder(self) -> Path:
        """Where the objects are."""
        assert self.config.folder is not None  # `check_trainable` has seen to it
        return self.config.folder

    def _listed(self) -> Found:
        """The objects that there are."""
        try:
            found = list_objects(self.folder)
        except UserError as error:
            if error.where is None:
                error.key = "folder"
            raise
        bare = found.bare
        some = first_of(bare)
        if not found.objects and not found.refused:
            raise UserError(
                f"there are no objects in {self.folder}" + (f"; images only are in {some}" if bare else ""),
                key="folder",
                hint="an object is a folder with images and a cameras.json or transforms.json",
            )
        if bare:
            self.lines.append(f"{counted(len(bare), 'folder')} with images and no camera file, passed over: {some}")
        unread = sorted(frozenset().union(*(thing.cameras.unread for thing in found.objects)))
        if unread:
            self.lines.append(f"keys of camera files that are not known and change nothing: {first_of(unread, 8)}")
        self._refuse(found, found.refused)
        return found

    def _refuse(self, found: Found, refused: Sequence[tuple[str, UserError]]) -> None:
        """Names objects that cannot be used. Raises UserError if they are too many, with those before."""
        reasons = [(name, _one_line(error)) for name, error in refused]
        for name, reason in reasons:
            self.context.quarantine.note(self.context.task, name, reason)
        self.note_left_out(reasons, "objects", "cannot be used", 3)
        self.refused += refused
        count, limit = len(self.refused), self.config.max_bad_fraction
        total = len(found.objects) + len(found.refused)
        if count and (count > max(limit * total, 1 if limit else 0) or count == total):
            name, error = self.refused[0]
            raise UserError(
                f"{count} of {counted(total, 'object')} cannot be used, more than a share of {limit:g}; "
                f"{shorten(name)}: {error.message}",
                where=error.where or str(self.folder / name),
                hint=error.hint or "mend or remove them, or raise max_bad_fraction",
            )

    def _captioned(self, found: list[ObjectFiles]) -> list[ObjectFiles]:
        """The objects, as the policy for missing captions has it."""
        bare = [thing.name for thing in found if not thing.captions]
        if not bare:
            return found
        first, mute = first_of(bare), counted(len(bare), "object", "have")
        if self.config.missing_captions == "error":
            raise UserError(
                f"{len(bare)} of {counted(len(found), 'object')} have no caption: {first}",
                key="missing_captions",
                hint="caption them, or write empty (to train them with the caption “”) or skip (to leave them out)",
            )
        if self.config.missing_captions == "skip":
            self.lines.append(f"{mute} no caption, left out: {first}")
            return [thing for thing in found if thing.captions]
        self.lines.append(f"{mute} no caption, and “” instead: {first}")
        return [replace(thing, captions=thing.captions or ("",)) for thing in found]

    def _readable(self, objects: Sequence[ObjectFiles]) -> tuple[list[Readable], Damage]:
        """The objects without the images that cannot be read, or whose masks cannot."""
        shots = [shot for thing in objects for shot in thing.shots]
        files = [file for shot in shots for file in shot.files]
        findings = examine(files, str(self.folder), self.config.check == "full", measure_view, "views")
        damage = Damage(self.context, len(files), self.config.max_bad_fraction, "images")
        of = dict(zip((file.name for file in files), findings, strict=True))
        damaged = [(name, finding.damage) for name, finding in of.items() if finding.damage]
        for shot in shots:
            if shot.mask is not None and not _same_shape(of[shot.file.name], of[shot.mask.name]):
                damaged.append((shot.mask.name, "has another shape than the image that it masks"))
        damage.others |= {name for name, _ in self.refused}
        damage.note(damaged)
        self.note_left_out(damaged, "images", "cannot be read", 2)
        bad = {name for name, _ in damaged}
        return [
            Readable(
                thing,
                [
                    (shot, of[shot.file.name])
                    for shot in thing.shots
                    if shot.file.name not in bad and (shot.mask is None or shot.mask.name not in bad)
                ],
                "\0".join((thing.content, *(of[file.name].content for shot in thing.shots for file in shot.files))),
            )
            for thing in objects
        ], damage

    def _split(self, objects: Sequence[Thing], damage: Damage) -> tuple[ObjectSource, ObjectSource]:
        numbers, need = self.config.numbers, self.context.global_batch
        few = [thing for thing in objects if len(thing.views) < numbers[0]]
        if few:
            first = first_of([f"{thing.name} has {len(thing.views)}" for thing in few])
            some = counted(len(few), "object", "have")
            self.lines.append(f"{some} fewer than {counted(numbers[0], 'view')}, left out: {first}")
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
                    key="views",
                    hint=f"set trainer.global_batch to at most {max(1, len(there))}, or ask for fewer views",
                )
        val = [(n, [thing for thing in held if len(thing.views) >= n]) for n in numbers]
        counts = ", ".join(f"{n} views: {len(there)}" for n, there in buckets)
        size = self.config.size
        self.lines.insert(
            0, f"{counted(len(train), 'object')} for training at {size}×{size} ({counts}), {len(held)} held out"
        )
        seed = self.context.seed
        return (
            ObjectSource(buckets, self.config, seed, damage, train=True),
            ObjectSource([(n, there) for n, there in val if there], self.config, seed, damage, train=False),
        )


def _same_shape(image: Finding, mask: Finding) -> bool:
    if image.damage or mask.damage:
        return True  # named already
    return abs(image.width * mask.height - mask.width * image.height) <= max(image.width, image.height)


def _one_line(error: UserError) -> str:
    """Without the folder, which the object's name says."""
    file = f"{Path(error.where).name}: " if error.where else ""
    return str(UserError(f"{file}{error.message}", hint=error.hint))


class Objects(DataSource[ObjectsConfig]):
    """Objects of one's own."""

    def data_module(self, context: DataContext) -> ObjectsData:
        return ObjectsData(self.config, context)
