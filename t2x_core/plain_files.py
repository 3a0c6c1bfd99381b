"""Small files of plain values, whole or as they were; and what damage they may have, as one kind of error."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def read_json(file: Path, kind: type = dict) -> Any:
    """The value in a JSON file, of type `kind`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no text, no JSON, nested too deeply, or of another type.
    """
    return parse_json(file.read_bytes(), kind, str(file))


def parse_json(text: bytes | str, kind: type = dict, name: str = "it") -> Any:
    """The value of type `kind` that a JSON text holds; ValueError if it is damaged in whatever way."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply") from None
    if not isinstance(value, kind):
        raise ValueError(f"{name} holds {type(value).__name__}, not {kind.__name__}")
    return value


def write_whole(file: Path, text: str) -> None:
    """Writes a file that is there afterwards whole, or as it was before, even if the machine stops meanwhile.

    Raises:
        OSError: it cannot be written; nothing half written is left behind.
    """
    beside = file.with_name(f".{file.name}.part")
    try:
        with beside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(file)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    sync(file.parent)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
