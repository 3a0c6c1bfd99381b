"""Shards: tar files in WebDataset's convention, and Parquet files with the media inside; indexed once each."""

from __future__ import annotations

import glob
import hashlib
import itertools
import logging
import os
import re
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from t2x_core.data.file_table import FileTable
from t2x_core.data.files import name_below, shown
from t2x_core.data.image_files import ImageFile, ImageList
from t2x_core.data.manifest import Columns
from t2x_core.data.parquet_shard import list_parquet
from t2x_core.data.tar_shard import list_tar
from t2x_core.errors import Complain, UserError, stop
from t2x_core.media import Place
from t2x_core.media import stamp as stamp_of
from t2x_core.paths import cache_folder
from t2x_core.plain_files import locked
from t2x_core.remote import Url, is_url, public_url, url_name
from t2x_core.remote.fetch import list_files
from t2x_core.remote.url import split_query
from t2x_core.wording import counted

log = logging.getLogger("t2x")
VERSION = 1
"""Counts changes of what is kept in an index."""
NEWS = 15.0
"""Seconds between two lines on progress."""
_MEMBER = re.compile(r"(.+?\.(?:tar|parquet))!(.+)", re.IGNORECASE | re.DOTALL)
FEW, SHARE, MOST_PROCESSES = 8, 4, 16
"""Shards that one process indexes alone; those it takes at a time, of more; and processes, at most."""
KINDS = {".tar": list_tar, ".parquet": list_parquet}
"""Ending of a shard → what lists it."""


def list_shards(
    pattern: Path | Url, columns: Columns, suffixes: Collection[str], what: str = "image", complain: Complain = stop
) -> ImageList:
    """The images (or `what` has one of these suffixes) in shards, in the order of the shards' names and within them.

    Args:
        pattern: see `shard_files`.
        columns: keys of a `.json` member, or columns of a Parquet file.
        complain: is told of shards that cannot be read at all.

    A file is called `<path of the shard>!<what it is called in there>`. What is in a shard is remembered in the user's
    cache folder; one that has not changed is not read again.

    Raises:
        UserError: there is no such shard.
    """
    root, shards = shard_files(pattern)
    files: list[ImageFile] = []
    remarks: list[str] = []
    damaged: list[tuple[str, str]] = []
    alone = 0
    read = _index_side_by_side(shards, columns, suffixes)
    for shard in shards:
        try:
            table, was_known = _index(shard, columns, suffixes)
        except UserError as error:
            complain(error)
            continue
        read += not was_known
        own = name_below(shard, root)
        files += [replace(file, name=f"{own}!{file.name}") for file in table]
        damaged += [(f"{own}!{name}" if name else own, why) for name, why in table.notes["damaged"]]
        remarks += [f"{own}: {remark}" for remark in table.notes["remarks"]]
        alone += table.notes["alone"]
    if alone:
        remarks.append(f"{counted(alone, 'sample', 'have')} no {what} beside the text")
    if read:
        log.info("%d of %s indexed", read, counted(len(shards), "shard"))
    return ImageList(files, remarks, damaged)


def in_shards(found: ImageList, columns: Columns, suffixes: Collection[str]) -> ImageList:
    """The same files, of which those that a manifest calls `train-000.tar!a/b.jpg` are looked up in their shards.

    So a manifest may choose among the members of shards, or caption them anew. One that is not there is damaged.
    """
    members: dict[str, dict[str, Place]] = {}
    files, damaged = [], list(found.damaged)
    for file in found.files:
        inside = _MEMBER.fullmatch(file.place) if isinstance(file.place, str) and "!" in file.place else None
        if inside is None or os.path.lexists(inside[0]):
            files.append(file)
            continue
        shard, name = inside.groups()
        if shard not in members:
            members[shard] = {member.name: member.place for member in _index(shard, columns, suffixes)[0]}
        if (place := members[shard].get(name)) is None:
            damaged.append((file.name, "is not in the shard"))
        else:
            files.append(replace(file, place=place))
    return replace(found, files=files, damaged=damaged)


def _index_side_by_side(shards: Sequence[str], columns: Columns, suffixes: Collection[str]) -> int:
    """Indexes what is not known yet in several processes, which leave what they find in the user's cache folder; how
    many shards. What goes wrong in one is left to whoever reads the shard next."""

    def is_new(shard: str) -> bool:
        index, stamp = _remembered(shard, columns, suffixes)
        return index is not None and _known(index, stamp, shard) is None

    if sys.platform != "linux" or len(shards) < FEW:  # elsewhere to fork is not safe
        return 0
    with ThreadPoolExecutor(MOST_PROCESSES) as threads:  # a server takes its time
        new = [shard for shard, is_it in zip(shards, threads.map(is_new, shards), strict=True) if is_it]
    if len(new) < FEW:
        return 0
    began, read = time.monotonic(), 0
    with ProcessPoolExecutor(min(len(os.sched_getaffinity(0)), MOST_PROCESSES), get_context("fork")) as pool:
        tasks = [pool.submit(_try_index, new[i : i + SHARE], columns, suffixes) for i in range(0, len(new), SHARE)]
        try:
            for task in as_completed(tasks):
                read += task.result()
                if time.monotonic() - began > NEWS:
                    log.info("indexing the shards: %d of %d", read, len(new))
                    began = time.monotonic()
        except BrokenProcessPool:  # out of memory, say: the rest is read by this process
            return read
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return read


def _try_index(shards: Sequence[str], columns: Columns, suffixes: Collection[str]) -> int:
    """How many of these were not known."""
    read = 0
    for shard in shards:
        with suppress(Exception):
            read += not _index(shard, columns, suffixes)[1]
    return read


def shard_files(pattern: Path | Url) -> tuple[str, list[str]]:
    """What a pattern stands for: (folder that names are relative to, paths in order).

    It is a shard, a folder of them, or a pattern with `*`, `?`, `[…]`, `{000..123}` or `{a,b}`; in a URL without `?`,
    and those that braces name are not looked for. Each file counts once.

    Raises:
        UserError: there is none, one that braces name is not there, or it is no `.tar` or `.parquet`.
    """
    if isinstance(pattern, Url):
        root, found = _remote_files(pattern)
        return root, _checked(found, pattern)
    text = os.fspath(pattern)
    if os.path.isdir(text):
        root, found = text, sorted(itertools.chain.from_iterable(_in_folder(text)))
    elif os.path.lexists(text):
        root, found = os.path.dirname(text), [text]
    else:
        root, found = os.path.dirname(re.split(r"[*?\[{]", text)[0]), []
        for part in braces(text):
            if re.search(r"[*?[]", part) and not os.path.lexists(part):
                found += sorted(glob.glob(part, recursive=True))
            elif os.path.lexists(part):
                found.append(part)
            else:
                raise UserError(f"there is no shard {shown(part)}")
    return root, _checked(list({os.path.realpath(path): path for path in found}.values()), pattern)


def _checked(found: list[str], pattern: Path | Url) -> list[str]:
    if not found:
        raise UserError(f"there are no shards (.tar or .parquet) in {shown(pattern)}")
    if other := next((path for path in found if _kind(path) not in KINDS), None):
        raise UserError(f"{shown(other)} is no shard", hint=f"its ending must be one of {', '.join(KINDS)}")
    return found


def _remote_files(pattern: Url) -> tuple[str, list[str]]:
    """As `shard_files`; shards are asked for first when they are read."""
    base, query = split_query(pattern.full)
    wild = re.search(r"[*\[]", base)
    if wild is None and _kind(base) in KINDS:
        first = re.search(r"\{", base)
        root = base[: first.start()] if first else base
        return root.rpartition("/")[0], list(dict.fromkeys(part + query for part in braces(base)))
    found: list[str] = []
    for part in braces(base):
        try:
            found += (path for path in list_files(part + query) if _kind(path) in KINDS)
        except OSError as error:
            raise UserError(
                f"{shown(part)} cannot be listed: it {error.strerror}", hint='name the shards: "train-{000..123}.tar"'
            ) from error
    root = base[: wild.start()].rpartition("/")[0] if wild else base.rstrip("/")
    return root, list(dict.fromkeys(found))


def _in_folder(folder: str) -> Iterator[list[str]]:
    from t2x_core.data.image_files import walk

    for parent, _, names in walk(Path(folder)):
        yield [os.path.join(parent, name) for name in names if _kind(name) in KINDS]


def _kind(path: str) -> str:
    return os.path.splitext(url_name(path) if is_url(path) else path)[1].lower()


def braces(text: str) -> list[str]:
    """What `a-{00..02}-{x,y}.tar` stands for, as in a shell; braces of another kind stay as they are."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", text)
    if match is None:
        return [text]
    if match[3] is not None:
        middle = match[3].split(",")
    else:
        width = max(len(end) if end.startswith("0") else 0 for end in match.group(1, 2))
        first, last = int(match[1]), int(match[2])
        if abs(last - first) > 10**6:
            raise UserError(f"{match[0]} are more than a million shards")
        step = 1 if last >= first else -1
        middle = [f"{number:0{width}d}" for number in range(first, last + step, step)]
    return [f"{text[: match.start()]}{part}{rest}" for part in middle for rest in braces(text[match.end() :])]


def _index(shard: str, columns: Columns, suffixes: Collection[str]) -> tuple[FileTable, bool]:
    """The files in a shard, and whether they were remembered."""
    index, stamp = _remembered(shard, columns, suffixes)
    with ExitStack() as stack:
        if index is not None:
            if (known := _known(index, stamp, shard)) is not None:
                return known, True
            try:
                index.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(index.with_suffix(".lock")))
            except OSError as error:
                log.info("nothing is remembered of the shards: cannot write %s (%s)", index, error.strerror)
                index = None
            else:  # another process may have been here meanwhile
                if (known := _known(index, stamp, shard)) is not None:
                    return known, True
        files, notes = KINDS[_kind(shard)](shard, columns, suffixes)
        table = FileTable.of(files, {**notes, "stamp": stamp})
        if index is not None and stamp:
            try:
                table.save(index)
            except OSError as error:
                log.info("nothing is remembered of %s: cannot write %s (%s)", shown(shard), index, error.strerror)
    return table, False


def _remembered(shard: str, columns: Columns, suffixes: Collection[str]) -> tuple[Path | None, list[int]]:
    """Where what is in a shard is remembered, and the shard's stamp, [] if it is not there."""
    stamp: list[int] = []
    try:
        stamp = list(stamp_of(shard))
    except OSError as error:
        if is_url(shard):
            raise UserError(f"{shown(shard)}: it {error.strerror}") from error
    made_of = VERSION, public_url(shard) if is_url(shard) else os.path.realpath(shard), columns, sorted(suffixes)
    digest = hashlib.blake2b(repr(made_of).encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    folder = cache_folder()
    return None if folder is None else folder / "shards" / f"{digest}.safetensors", stamp


def _known(index: Path, stamp: Sequence[int], shard: str) -> FileTable | None:
    with suppress(OSError, ValueError):
        table = FileTable.open(index, [shard])
        if table.notes.get("stamp") == [*stamp]:
            return table
    return None
