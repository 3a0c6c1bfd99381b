"""What an earlier check found in files, as long as these have not changed: so a check that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import av
import PIL

from t2x_core.data_check.look import LOOK, LookJob, Seen
from t2x_core.media import stamp as stamp_of
from t2x_core.media import to_plain
from t2x_core.paths import cache_folder

log = logging.getLogger("t2x")


class Known:
    """JSON lines in the user's cache folder, a file of them for each recipe; the last line of a file counts.

    Every line is on its way to the disk before the next file is looked at, so a kill loses nothing that was seen.
    """

    def __init__(self, origin: str) -> None:
        """`origin`: what is checked; what is known of it is kept by it."""
        root = cache_folder()
        digest = hashlib.blake2b(repr((LOOK, av.__version__, PIL.__version__, origin)).encode(), digest_size=12)
        self.file: Path | None = None if root is None else root / "check" / f"{digest.hexdigest()}.jsonl"
        self._seen = _read(self.file)
        self._stream: IO[bytes] | None = None

    def get(self, key: str) -> Seen | None:
        return self._seen.get(key)

    def put(self, key: str, seen: Seen) -> None:
        """Remembers it, if another look would find the same."""
        if self.file is None or not seen.lasting:
            return
        try:
            if self._stream is None:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self.file.open("ab")
                if self._stream.tell():
                    self._stream.write(b"\n")  # the last line may have been cut by a kill
            self._stream.write(json.dumps([key, asdict(seen)]).encode() + b"\n")
            self._stream.flush()
        except OSError as error:
            log.info("nothing more is remembered of the check: cannot write %s (%s)", self.file, error.strerror)
            self.file = None

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def key_of(job: LookJob) -> str | None:
    """By what a file is known: where it is, its size and time of change, and how it is decoded. None: it is not
    there."""
    try:
        made_of = to_plain(job.place), stamp_of(job.place), job.video, job.background
    except OSError:
        return None
    return hashlib.blake2b(repr(made_of).encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()


def _read(file: Path | None) -> dict[str, Seen]:
    seen: dict[str, Seen] = {}
    if file is not None:
        with suppress(OSError), file.open("rb") as stream:
            for line in stream:
                with suppress(ValueError, TypeError, KeyError, RecursionError):
                    key, plain = json.loads(line)
                    seen[key] = _seen(plain)
    return seen


def _seen(plain: Mapping[str, Any]) -> Seen:
    signs = tuple((str(kind), str(detail)) for kind, detail in plain["signs"])
    return Seen(**{**plain, "hashes": tuple(map(int, plain["hashes"])), "signs": signs})
