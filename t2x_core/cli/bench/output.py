"""What the kinds of `t2x bench` write alike."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2x_core.errors import UserError
from t2x_core.plain_files import write_whole


def milliseconds(seconds: list[float]) -> str:
    """Their median."""
    return f"{1000 * statistics.median(seconds):.2f} ms"


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """UserError if it cannot be written."""
    try:
        write_whole(file, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from error


def check_writable(file: Path) -> None:
    """UserError if it could not be written: found before the work, not after it."""
    existed = file.exists()
    try:
        file.open("a").close()
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}", where="command line") from error
    if not existed:
        file.unlink()
