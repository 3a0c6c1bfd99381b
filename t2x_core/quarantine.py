"""Files that could not be read, each named once: over workers, ranks, epochs and resumes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # not on Windows, where two processes may thus name a file twice
    fcntl = None  # type: ignore[assignment]

FILE_NAME = "quarantine.jsonl"
"""Its name in a run's folder."""


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

    def note(self, task: str, file: str, reason: str) -> None:
        """Names a file that cannot be read."""
        if (task, file) not in self._notes:
            self._notes[task, file] = {"task": task, "file": file, "reason": reason, "when": _now()}
            self._write()

    def named(self, task: str) -> dict[str, str]:
        """File → reason of all that are known by now: noted in this process, or by others before its last note.

        Files that only an earlier start of the run has named do not count: they may have been mended since.
        """
        return {note["file"]: note["reason"] for note in self._notes.values() if note["task"] == task}

    def write_to(self, file: Path) -> None:
        """Writes to `file` from now on, and what has been noted so far."""
        self.file = file
        self._write()

    def _write(self) -> None:
        """Appends what the file does not name, and learns what other processes have named since this run started."""
        if self.file is None or not self._notes:
            return
        with locked(self.file) as stream:
            stream.seek(0)
            text = stream.read()
            lines = [line for line in map(_parse, text.splitlines()) if line is not None]
            named = {(line["task"], line["file"]) for line in lines}
            if text and not text.endswith("\n"):  # left by a process that was killed
                stream.write("\n")
            for key, note in self._notes.items():
                if key not in named:
                    stream.write(json.dumps(note, ensure_ascii=False) + "\n")
        for line in lines:
            if line["when"] >= self._since:
                self._notes.setdefault((line["task"], line["file"]), line)


def count(file: Path) -> int:
    """How many files it names; 0 if there is none."""
    return len(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else 0


@contextmanager
def locked(file: Path) -> Iterator[IO[str]]:
    """The file, made if need be, open for reading and appending, and of no other process until it is closed."""
    with file.open("a+", encoding="utf-8") as stream:
        if fcntl is not None:
            with suppress(OSError):  # some network drives have no locks
                fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream


def _parse(line: str) -> dict[str, str] | None:
    with suppress(ValueError):
        return dict(json.loads(line))
    return None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
