"""What image files hold: their sizes, and which are damaged; looked at in parallel, and remembered between runs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import PIL
from PIL import Image

from t2x_core.data.content import content_hash
from t2x_core.data.decode import FORMATS, DamagedImageError, image_size
from t2x_core.data.flat import LARGE
from t2x_core.data.image_files import ImageFile
from t2x_core.errors import UserError
from t2x_core.media import Place, open_place, size_of, special_file
from t2x_core.media import stamp as stamp_of
from t2x_core.paths import cache_folder
from t2x_core.plain_files import locked

log = logging.getLogger("t2x")

_ONE_AT_A_TIME = threading.Lock()
CHUNK = 512
"""Files that are handed to the threads at once."""
FIRST_NEWS, NEWS = 5.0, 15.0
"""Seconds until the first line on progress, and between two."""
KEEP = 120.0
"""Seconds after which what was found is remembered, if there is more to look at."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a file turned out to be: an image, or a video."""

    height: int = 0
    width: int = 0
    """Size of the upright image, in pixels."""
    frames: int = 1
    seconds: float = 0.0
    """From the first frame of a video to its last."""
    exact: bool = False
    """Whether decord has been proved right about a video, see `t2x_core.video.Video`."""
    damage: str | None = None
    """Why it cannot be read, or None."""
    content: str = field(default="", compare=False)
    """A hash of what is in it (`content_hash`); its size, if a manifest said what headers would have."""


Measure = Callable[[Place, bool], Finding]
"""(place, whole) → what the file is; raises DamagedImageError."""


def measure_image(place: Place, whole: bool) -> Finding:
    """What an image is. Large ones are decoded one at a time: each takes hundreds of megabytes for a moment."""
    with _ONE_AT_A_TIME if whole and _is_large(place) else nullcontext():
        return Finding(*image_size(place, whole))


def _is_large(place: Place) -> bool:
    """By its header; a JPEG is not, since it is decoded at an eighth of its size."""
    with suppress(Exception), open_place(place) as stream, Image.open(stream, formats=FORMATS) as image:
        return image.format not in ("JPEG", "MPO") and image.width * image.height > LARGE
    return False


def examine(
    files: Sequence[ImageFile], origin: str, whole: bool, measure: Measure = measure_image, what: str = "images"
) -> list[Finding]:
    """A finding for each file.

    Args:
        origin: the folder or the manifest; what is remembered is kept by it.
        whole: decode every image, so that the damaged ones are known; else only headers are read, and of files whose
            size a manifest tells not even these.
        measure: looks at a file; in several threads at once.
        what: what the files are, for the log and the name of the memory.

    Good files are remembered in the user's cache folder, and looked at again when their size or time of change differs.
    Damaged ones are looked at each time. Processes that examine the same at once wait for the first.
    """
    with ExitStack() as stack:
        memory = _memory(origin, whole, what)
        if memory is not None:
            try:
                memory.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(memory.with_suffix(".lock")))
            except OSError as error:
                log.info("nothing is remembered of the %s: cannot write %s (%s)", what, memory, error.strerror)
                memory = None
        known = _recall(memory)

        def keep(stamps: Sequence[Stamp | None], findings: Sequence[Finding]) -> None:
            if memory is not None:
                _remember(memory, {**known, **_entries(files, stamps, findings)}, what)

        stamps, findings = _look(files, known, whole, measure, what, keep)
        remembered = _entries(files, stamps, findings)
        if memory is not None and remembered != known:
            _remember(memory, remembered, what)
    return findings


Stamp = tuple[int, ...]
"""By which a change of a file shows: `t2x_core.media.stamp`."""


def _entries(files: Sequence[ImageFile], stamps: Sequence[Stamp | None], findings: Sequence[Finding]) -> dict[str, Any]:
    """What is remembered of the files that were looked at, the first ones."""
    return {
        file.name: [
            *([*stamp], finding.height, finding.width, finding.frames),
            *(finding.seconds, finding.exact, finding.content),
        ]
        for file, stamp, finding in zip(files, stamps, findings, strict=False)
        if finding.damage is None and stamp is not None
    }


def _look(
    files: Sequence[ImageFile],
    known: dict[str, Any],
    whole: bool,
    measure: Measure,
    what: str,
    keep: Callable[[Sequence[Stamp | None], Sequence[Finding]], None],
) -> tuple[list[Stamp | None], list[Finding]]:
    """`keep` is called now and then with what was found so far, so that a start that is killed goes on from there."""

    def look(file: ImageFile) -> tuple[Stamp | None, Finding]:
        stamp: Stamp | None = None
        with suppress(OSError):
            if why := special_file(file.place):  # to open a pipe would wait for ever
                return None, Finding(damage=why)
            stamp = stamp_of(file.place)
        if file.size is not None and not whole:
            return None, Finding(*file.size, content="" if stamp is None else f"{size_of(file.place)} bytes")
        entry = known.get(file.name)
        if entry is not None and stamp is not None and entry[0] == [*stamp]:
            return stamp, replace(Finding(*entry[1:6]), content=entry[6])
        try:
            return stamp, replace(measure(file.place, whole), content=_content(file.place))
        except DamagedImageError as error:
            return stamp, Finding(damage=str(error))

    stamps, findings = [], []
    began = last_report = last_kept = time.monotonic()
    with ThreadPoolExecutor(min(32, 2 * _cpus())) as pool:
        for start in range(0, len(files), CHUNK):
            for stamp, finding in pool.map(look, files[start : start + CHUNK]):
                stamps.append(stamp)
                findings.append(finding)
            now = time.monotonic()
            if now - last_report > (FIRST_NEWS if last_report == began else NEWS):
                log.info("looking at the %s: %d of %d", what, len(findings), len(files))
                last_report = now
            if now - last_kept > KEEP:
                keep(stamps, findings)
                last_kept = time.monotonic()
    return stamps, findings


def _content(place: Place) -> str:
    try:
        return content_hash(place)
    except (OSError, UserError):  # it has just been read
        return ""


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory(origin: str, whole: bool, what: str = "images") -> Path | None:
    """The file that remembers; None if the user has no home."""
    root = cache_folder()
    digest = hashlib.blake2b(repr((5, PIL.__version__, whole, origin)).encode(), digest_size=12).hexdigest()
    return None if root is None else root / what / f"{digest}.json"


def _recall(memory: Path | None) -> dict[str, Any]:
    """What is remembered, as far as it makes sense: whatever else is in the file is forgotten."""
    if memory is not None:
        with suppress(OSError, ValueError, RecursionError):
            entries = json.loads(memory.read_text(encoding="utf-8"))
            if isinstance(entries, dict):
                return {name: entry for name, entry in entries.items() if _is_entry(entry)}
    return {}


def _is_entry(entry: object) -> bool:
    """Whether it is [stamp, height, width, frames, seconds, exact, content] of a file that was good."""
    if not (isinstance(entry, list) and len(entry) == 7 and type(entry[5]) is bool and type(entry[6]) is str):
        return False
    whole = isinstance(entry[0], list) and all(type(number) is int for number in (*entry[0], *entry[1:4]))
    return whole and min(entry[1:4]) >= 1 and type(entry[4]) in (int, float) and entry[4] >= 0


def _remember(memory: Path, entries: dict[str, Any], what: str) -> None:
    beside = memory.with_suffix(f".{os.getpid()}")
    try:
        beside.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
        beside.replace(memory)
    except OSError as error:
        log.info("nothing is remembered of the %s: cannot write %s (%s)", what, memory, error.strerror)
        beside.unlink(missing_ok=True)
