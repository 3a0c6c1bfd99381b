"""Files that could not be read, each named once: over workers, ranks, epochs and resumes."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from t2x_core.plain_files import locked

log = logging.getLogger("t2x")

FILE_NAME = "quarantine.jsonl"
"""Its name in a run's folder."""
KEYS = ("task", "file", "reason", "when")


class Quarantine:
    """JSON lines, one a file: {"task", "file", "reason", "when"}.

    What is noted before `write_to` says where is kept, and written then. Worker processes get a copy, and append to the
    same file.
    """

    def __init__(self) -> None:
        self.file: Path | None = None
        """Where the lines go; None as long as there is no run folder."""
        self._since = _now()
        self._notes: dict[tuple[str, str], dict[str, str]] = {}
        self._numbers = Counter[str]()
        self._unwritten: list[dict[str, str]] = []
        self._there: set[tuple[str, str]] = set()
        """What the file names, as far as it was read."""
        self._read = 0
        """Bytes of the file that were read: a note costs what came since, not what is there."""

    def note(self, task: str, file: str, reason: str) -> None:
        """Names a file that cannot be read."""
        self.note_all(task, [(file, reason)])

    def note_all(self, task: str, files: Iterable[tuple[str, str]]) -> None:
        """Names several files (name, reason), in one go."""
        for file, reason in files:
            if (task, file) not in self._notes:
                note = {"task": task, "file": file, "reason": reason, "when": _now()}
                self._add(note)
                self._unwritten.append(note)
        self._write()

    def named(self, task: str) -> dict[str, str]:
        """File → reason of all that are known by now: noted in this process, or by others before its last note.

        Files that only an earlier start of the run has named do not count: they may have been mended since.
        """
        return {note["file"]: note["reason"] for note in self._notes.values() if note["task"] == task}

    def number(self, task: str) -> int:
        """How many there are in `named`."""
        return self._numbers[task]

    def _add(self, note: dict[str, str]) -> None:
        key = note["task"], note["file"]
        if key not in self._notes:
            self._notes[key] = note
            self._numbers[note["task"]] += 1

    def write_to(self, file: Path) -> None:
        """Writes to `file` from now on, and what has been noted so far."""
        self.file, self._read, self._there = file, 0, set()
        self._unwritten = list(self._notes.values())
        self._write()

    def _write(self) -> None:
        """Appends what the file does not name, and learns what other processes have named since this run started."""
        if self.file is None or not self._unwritten:
            return
        try:
            with locked(self.file) as stream:
                if stream.seek(0, os.SEEK_END) < self._read:  # somebody has emptied it
                    self._read, self._there = 0, set()
                stream.seek(self._read)
                for line in (found := stream.read()).split(b"\n"):
                    if (note := _parse(line)) is not None:
                        key = note["task"], note["file"]
                        self._there.add(key)
                        if note["when"] >= self._since:
                            self._add(note)
                new = [note for note in self._unwritten if (note["task"], note["file"]) not in self._there]
                text = "".join(json.dumps(note, ensure_ascii=False) + "\n" for note in new)
                if found and not found.endswith(b"\n"):  # left by a process that was killed
                    text = "\n" + text
                stream.write(text.encode("utf-8", "backslashreplace"))
                self._there.update((note["task"], note["file"]) for note in new)
                self._read, self._unwritten = stream.tell(), []
        except OSError as error:  # a full disk is no reason to lose a sample, too
            log.warning("%s cannot be written: %s", self.file, error.strerror)


def count(file: Path) -> int:
    """How many files it names; 0 if there is none."""
    if not file.is_file():
        return 0
    with file.open("rb") as stream:
        return sum(_parse(line) is not None for line in stream)


def _parse(line: bytes) -> dict[str, str] | None:
    """A line, if it is one of ours: what a disk or another program left there is passed over."""
    with suppress(ValueError, RecursionError):
        note = json.loads(line)
        if isinstance(note, dict) and all(isinstance(note.get(key), str) for key in KEYS):
            return note
    return None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
