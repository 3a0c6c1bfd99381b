"""What data modules of one's own files share: captions, aspect-ratio buckets, what is held out, what is left out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Generic, Literal, TypeVar

from t2x_core.data.buckets import Shape, bucket_shapes
from t2x_core.data.decode import SUFFIXES
from t2x_core.data.image_files import (
    ImageFile,
    ImageList,
    group_names,
    grouped,
    hold_out,
    list_folder,
    settle_captions,
)
from t2x_core.data.manifest import Columns, read_manifest
from t2x_core.errors import UserError
from t2x_core.interfaces import DataContext, Source, TaskDataModule
from t2x_core.quarantine import FILE_NAME
from t2x_core.wording import counted, shorten
from t2x_plugins.captioned.captioned_config import ColumnsConfig, need_place

SourceT = TypeVar("SourceT", bound=Source)


class OwnFilesData(TaskDataModule, Generic[SourceT]):
    """Files are looked at once. Every process finds the same, and all but the first of a machine find it in the index
    that the first has written."""

    def __init__(self, task: str, context: DataContext) -> None:
        super().__init__()
        self.task, self.context = task, context
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

    def set_apart(self, files: Sequence[ImageFile], share: float, what: str) -> tuple[list[int], list[int]]:
        """Indices of the files to train on, and of those held out, whole groups at a time; UserError if the first are
        fewer than a batch."""
        names, need = group_names(files), self.context.global_batch
        held_out = hold_out(names, share) if names else []
        apart = set(held_out)
        train = [i for i in range(len(names)) if i not in apart]
        if len(train) < need:
            groups = len(set(names))
            of = f"{len(names)} good ones" + (f" in {counted(groups, 'group')}" if groups < len(names) else "")
            one = (
                " (all are of one group, which cannot be trained and held out at once)"
                if groups == 1 < len(names)
                else ""
            )
            raise UserError(
                f"{counted(len(train), what.removesuffix('s'))} for training (of {of} "
                f"{len(held_out)} are held out){one}, fewer than a batch of {need}",
                hint=f"set trainer.global_batch to at most {max(1, len(train))}, or add {what}",
            )
        return train, held_out

    def held_out_words(self, files: Sequence[ImageFile], held_out: Sequence[int]) -> str:
        """ "13 held out", and of how many groups, if there are some."""
        names = group_names(files)
        every, held = len(set(names)), len({names[i] for i in held_out})
        return f"{len(held_out)} held out" + (f" ({held} of {every} groups)" if every < len(names) else "")

    def note_left_out(self, files: Sequence[tuple[str, str]], what: str, why: str, named: int) -> None:
        """A line on files (name, reason) that are left out, if there are some; the first of them by name."""
        if files:
            first = ", ".join(f"{shorten(name)} {shorten(reason)}" for name, reason in files[:named])
            first += ", …" if files[named:] else ""
            some, are = counted(len(files), what.removesuffix("s")), "is" if len(files) == 1 else "are"
            why = why.replace("are", are, 1) if why.startswith("are ") else why
            self.lines.append(f"{some} {why} and {are} left out: {first} (all in {FILE_NAME})")


def captioned_files(
    folder: Path | None,
    manifest: Path | None,
    columns: ColumnsConfig,
    missing_captions: Literal["error", "empty", "skip"],
    block: str,
    what: str,
    suffixes: Collection[str] = SUFFIXES,
    sized: bool = False,
    narrow: Callable[[ImageList], ImageList] = lambda found: found,
    group: str | None = None,
) -> ImageList:
    """The files of a folder or a manifest with their captions, as the policy for missing captions has it.

    Args:
        block: of the recipe, "data.images" say, in which these settings stand.
        what: what the files are, "images" say.
        suffixes: endings of the files of a folder.
        narrow: leaves out those files of a folder that are not meant, before captions are asked for.
        sized: whether a manifest's columns for height and width say all that headers would.
        group: regular expression that names the groups of files without one (`grouped`).
    """
    need_place(folder, manifest, block, what)
    setting = f"{block}.{'folder' if manifest is None else 'manifest'}"
    try:
        if manifest is None:
            assert folder is not None  # `need_place` has seen to it
            found = narrow(list_folder(folder, suffixes, what.removesuffix("s")))
        else:
            captions = [columns.captions] if isinstance(columns.captions, str) else columns.captions
            size = (columns.height, columns.width) if sized and columns.height and columns.width else None
            wanted = Columns(columns.path, captions, size, columns.group)
            found = read_manifest(manifest, folder or manifest.parent, wanted)
    except UserError as error:
        if error.where is None and error.key is None:
            error.key = setting
        raise
    found = settle_captions(found, missing_captions, f"{block}.missing_captions", what)
    if not found.files:
        raise UserError(
            f"there are no captioned {what} in {manifest or folder}",
            key=setting,
            hint=f"{what} are {', '.join(sorted(suffixes))}, each with its caption in a .txt of the same name",
        )
    return grouped(found, group, f"{block}.group")


def aspect_buckets(
    size: int, max_aspect_ratio: float, bucket_step: int | None, multiple: int, block: str
) -> Sequence[Shape]:
    """The shapes of the buckets; `multiple`: of which their sides are to be multiples, in pixels."""
    for key, value in (("size", size), ("bucket_step", bucket_step)):
        if value is not None and value % multiple:
            raise UserError(f"{value} pixels must be a multiple of {multiple}", key=f"{block}.{key}")
    step = bucket_step or max(1, round(size / 8 / multiple)) * multiple
    return bucket_shapes(size, max_aspect_ratio, step, multiple)
