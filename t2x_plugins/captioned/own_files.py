"""What data modules of one's own files share: captions, aspect-ratio buckets, what is held out, what is left out."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from t2x_core.data.buckets import Shape, bucket_shapes
from t2x_core.data.decode import SUFFIXES
from t2x_core.data.file_table import FileTable
from t2x_core.data.files import shown
from t2x_core.data.image_files import (
    ImageFile,
    ImageList,
    OneEach,
    different,
    grouped,
    hold_out_hashed,
    list_folder,
    settle_captions,
    walk,
)
from t2x_core.data.index import Finding
from t2x_core.data.manifest import Columns, read_manifest
from t2x_core.data.shards import in_shards, list_shards, shard_files
from t2x_core.errors import Complain, UserError, stop
from t2x_core.interfaces import DataContext, Source, TaskDataModule
from t2x_core.media import stamp
from t2x_core.paths import cache_folder
from t2x_core.quarantine import FILE_NAME
from t2x_core.remote import Url
from t2x_core.wording import counted, shorten
from t2x_plugins.captioned.captioned_config import ColumnsConfig, FilesConfig, PlaceConfig

THREADS = 16
"""That ask at once whether files have changed."""
INDEX = 2
"""Counts changes of what `remembered` keeps."""
SourceT = TypeVar("SourceT", bound=Source)


class OwnFilesData(TaskDataModule, Generic[SourceT]):
    """Files are looked at once. Every process finds the same, and all but the first of a machine find it in the index
    that the first has written."""

    def __init__(self, context: DataContext) -> None:
        super().__init__()
        self.context = context
        self.files: Sequence[ImageFile] = ()
        """All that were found, for `captions`."""
        self._sources: tuple[SourceT, SourceT] | None = None

    @abstractmethod
    def find(self) -> tuple[SourceT, SourceT]:
        """The sources for training and validation; puts into `lines` what the log says of them."""

    def sources(self) -> tuple[SourceT, SourceT]:
        """For training and validation."""
        if self._sources is None:
            self.lines: list[str] = []
            self._sources = self.find()
        return self._sources

    def prepare_data(self) -> None:
        self.sources()

    def setup(self, stage: str) -> None:
        self.sources()

    def train_source(self) -> Source:
        return self.sources()[0]

    def val_source(self) -> Source:
        return self.sources()[1]

    def describe(self) -> Sequence[str]:
        self.sources()
        return self.lines

    def captions(self) -> Iterable[str]:
        self.sources()
        return (caption for file in self.files for caption in file.captions)

    def set_apart(self, files: FileTable, share: float, what: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices of the files to train on, each as often as it is repeated, and of those held out, whole groups at a
        time; UserError if the first are fewer than a batch. The table has hashes."""
        hashes, repeats = files.column("hashes")[:, 0], files.column("numbers")[:, 2].copy()
        need = self.context.global_batch
        held_out = hold_out_hashed(hashes, share) if len(hashes) else np.zeros(0, np.int64)
        repeats[held_out] = 0
        turns = [np.flatnonzero(repeats > turn) for turn in range(int(repeats.max(initial=0)))]
        train = np.concatenate([np.zeros(0, np.int64), *turns])  # so that none stands beside itself
        if len(train) < need:
            groups = len(different(hashes))
            of = f"{len(hashes)} good ones" + (f" in {counted(groups, 'group')}" if groups < len(hashes) else "")
            one = (
                " (all are of one group, which cannot be trained and held out at once)"
                if groups == 1 < len(hashes)
                else ""
            )
            raise UserError(
                f"{counted(len(train), what.removesuffix('s'))} for training (of {of} "
                f"{len(held_out)} are held out){one}, fewer than a batch of {need}",
                hint=f"set trainer.global_batch to at most {max(1, len(train))}, or add {what}",
            )
        return train, held_out

    def held_out_words(self, files: FileTable, held_out: NDArray[np.int64]) -> str:
        """ "13 held out", and of how many groups, if there are some."""
        hashes = files.column("hashes")[:, 0]
        every, held = len(different(hashes)), len(different(hashes[held_out]))
        return f"{len(held_out)} held out" + (f" ({held} of {every} groups)" if every < len(hashes) else "")

    def note_left_out(self, files: Sequence[tuple[str, str]], what: str, why: str, named: int) -> None:
        """A line on files (name, reason) that are left out, if there are some; the first of them by name."""
        if files:
            first = ", ".join(f"{shorten(name)} {shorten(reason)}" for name, reason in files[:named])
            first += ", …" if files[named:] else ""
            some, are = counted(len(files), what.removesuffix("s")), "is" if len(files) == 1 else "are"
            why = why.replace("are", are, 1) if why.startswith("are ") else why
            self.lines.append(f"{some} {why} and {are} left out: {first} (all in {FILE_NAME})")


def captioned_files(
    config: FilesConfig,
    suffixes: Collection[str] = SUFFIXES,
    sized: bool = False,
    narrow: Callable[[ImageList], ImageList] = lambda found: found,
) -> ImageList:
    """The files of all places with their captions, as the policy for missing captions has it.

    Args:
        suffixes: endings of the files of a folder, and of the members of tar shards.
        sized: whether columns for height and width say all that headers would.
        narrow: leaves out those files of a folder or of shards that are not meant, before captions are asked for.
    """
    what = config.what
    places = places_of(config)
    found = joined(places, [listed(place, what, suffixes, sized, narrow) for place in places])
    found = settle_captions(found, config.missing_captions, "missing_captions", what)
    if not found.files:
        raise UserError(
            f"there are no captioned {what} in {' or '.join(str(place.path) for place in places[:3])}",
            key=places[0].key,
            hint=f"{what} are {', '.join(sorted(suffixes))}, each with its caption in a .txt of the same name",
        )
    return grouped(found, config.group, "group")


def examined(found: ImageList, findings: Sequence[Finding]) -> FileTable:
    """The good ones of the files with what they hold: their contents and sizes, and, in the column "frames" (n, 3),
    frames, seconds, and whether decord may read them. What is damaged is in its notes, and remarks."""
    pairs = list(zip(found.files, findings, strict=True))
    damaged = [(file.name, finding.damage) for file, finding in pairs if finding.damage is not None]
    good = (
        replace(file, content=finding.content, size=(finding.height, finding.width))
        for file, finding in pairs
        if finding.damage is None
    )
    notes = {"damaged": [*damaged, *found.damaged], "remarks": list(found.remarks)}
    table = FileTable.of(good, notes, hashed=True)
    frames = [(each.frames, each.seconds, each.exact) for each in findings if each.damage is None]
    return table.with_column("frames", np.asarray(frames, np.float64).reshape(-1, 3))


class Where(NamedTuple):
    """One folder, manifest or pattern of shards."""

    key: Literal["folder", "manifest", "shards"]
    path: Path | Url
    folder: Path | Url | None
    """What the paths in a manifest are relative to, if not to itself."""
    columns: ColumnsConfig
    repeat: int


def places_of(config: FilesConfig) -> list[Where]:
    """All places that the settings name."""
    return [place for source in config.sources or (config,) for place in _each_place(source, config.columns)]


def _each_place(source: PlaceConfig, columns: ColumnsConfig | None) -> list[Where]:
    own = source.columns or columns or ColumnsConfig()
    if source.manifest is not None:
        folder = None if isinstance(source.folder, tuple) else source.folder
        return [Where("manifest", source.manifest, folder, own, source.repeat)]
    key: Literal["folder", "shards"] = "folder" if source.shards is None else "shards"
    paths = source.folder if source.shards is None else source.shards
    paths = (paths,) if isinstance(paths, Path | Url) else paths or ()
    return [Where(key, path, None, own, source.repeat) for path in paths]


def listed(
    place: Where,
    what: str,
    suffixes: Collection[str],
    sized: bool,
    narrow: Callable[[ImageList], ImageList],
    complain: Complain = stop,
) -> ImageList:
    """The files of one place, with the captions that they have; `complain` is told of what is wrong with single rows,
    captions and shards."""
    columns, one = place.columns, what.removesuffix("s")
    captions = [columns.captions] if isinstance(columns.captions, str) else columns.captions
    size = (columns.height, columns.width) if sized and columns.height and columns.width else None
    wanted = Columns(columns.path, captions, size, columns.group)
    try:
        match place.key:
            case "folder":
                if isinstance(place.path, Url):
                    raise UserError(
                        f"{place.path} is a URL, and single files are not listed by one",
                        hint="pack them into shards, or list them in a manifest",
                    )
                return narrow(list_folder(place.path, suffixes, one, complain))
            case "manifest":
                found = read_manifest(place.path, place.folder or place.path.parent, wanted, complain)
                return in_shards(found, wanted, suffixes)
            case "shards":
                return narrow(list_shards(place.path, wanted, suffixes, one, complain))
    except UserError as error:
        if error.where is None and error.key is None:
            error.key = place.key
        raise


def joined(places: Sequence[Where], lists: Sequence[ImageList]) -> ImageList:
    """All files. Those of the first place are called as they would be alone; in front of others is the name of their
    place, so that a further place changes neither names nor, thus, what is held out."""
    if len(lists) == 1 and places[0].repeat == 1:
        return lists[0]
    every, remarks, damaged, taken = OneEach(), list[str](), list[tuple[str, str]](), Counter[str]()
    for number, (place, found) in enumerate(zip(places, lists, strict=True)):
        own = shown(place.path.stem if place.key == "manifest" else place.path.name)
        taken[own] += 1
        own += f"~{taken[own]}" if taken[own] > 1 else ""
        front = f"{own}:" if number else ""
        for file in found.files:
            every.add(replace(file, name=front + file.name, repeat=place.repeat))
        remarks += [f"{own}: {remark}" for remark in found.remarks]
        damaged += [(front + name, why) for name, why in found.damaged]
        if place.repeat > 1:
            remarks.append(f"{own}: {counted(len(found.files), 'file')}, each {place.repeat} times an epoch")
    return ImageList(every.files, [*remarks, *every.remarks], damaged)


def remembered(config: FilesConfig, look: Callable[[], FileTable], suffixes: Collection[str] = SUFFIXES) -> FileTable:
    """The table of files that `look` made before, in the user's cache folder, if manifest, shards and names in folders
    are as they were; else what it makes now.

    Args:
        suffixes: endings of the files.
    """
    places = config.sources, config.folder, config.manifest, config.shards, config.columns, config.repeat
    made_of = INDEX, places, config.group, config.missing_captions, sorted(suffixes)
    digest = hashlib.blake2b(repr(made_of).encode(), digest_size=12).hexdigest()
    folder = cache_folder()
    every = places_of(config)
    try:
        paths = [_paths(place) for place in every]
        with ThreadPoolExecutor(THREADS) as pool:  # servers take their time
            states = [[list(each) for each in pool.map(stamp, there)] for there in paths]
    except OSError:
        return look()  # which says what is wrong
    if folder is None:
        return look()
    urls = [path for there in paths for path in there]
    index = folder / "index" / f"{digest}.safetensors"
    with suppress(OSError, ValueError):
        table = FileTable.open(index, urls)
        if table.notes.get("states") == states:
            return table
    table = look()
    table.notes = {**table.notes, "states": states}
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        table.save(index)
        return FileTable.open(index, urls)
    except OSError as error:
        raise UserError(f"the index cannot be written to {index}: {error.strerror}", key="check") from error


def _paths(place: Where) -> list[str]:
    """The files and folders that change when a manifest, a shard, or the names in a folder do."""
    if place.key == "shards":
        return shard_files(place.path)[1]
    if isinstance(place.path, Url):
        return [place.path.full]
    return [parent for parent, _, _ in walk(place.path)] if place.key == "folder" else [str(place.path)]


def aspect_buckets(config: FilesConfig, multiple: int) -> Sequence[Shape]:
    """The shapes of the buckets; `multiple`: of which their sides are to be multiples, in pixels."""
    step = config.bucket_step or max(1, round(config.size / 8 / multiple)) * multiple
    return bucket_shapes(config.size, config.max_aspect_ratio, step, multiple)
