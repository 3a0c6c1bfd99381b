"""What data a run began with: on other data its samples would come in another order, and it would not go on exactly."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2x_core.errors import UserError
from t2x_core.plain_files import read_json, write_whole

log = logging.getLogger("t2x")

FILE_NAME = "data.json"
"""Its name in a run's folder."""
PARTS = {"train": "training", "val": "validation"}


def check_data(folder: Path, found: Mapping[str, Any], resume: bool, allow: bool = False) -> None:
    """Keeps in the run's folder what `MixedData.fingerprint` found; on a resume, holds it against what is kept there.

    For the first rank alone.

    Args:
        allow: the data may be other than before; the log says what is.

    Raises:
        UserError: the data is not that with which the run began.
    """
    file = folder / FILE_NAME
    changes: list[str] = []
    try:
        kept = read_json(file) if resume else found
        changes = [
            f"for {words} {task} had {_count(kept[task][part])}, now {_count(now[part], kept[task][part])}"
            for task, now in found.items()
            for part, words in PARTS.items()
            if now[part] != kept[task][part]
        ]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        log.warning("%s is damaged (%s): the data is not compared with that before", file, error)
    if changes and not allow:
        raise UserError(
            f"the data is not that with which the run began: {'; '.join(changes)}",
            hint="put it back, or --allow data to go on with samples in another order",
        )
    for change in changes:
        log.info("%-10s data: %s; samples come in another order", "changed", change)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(found) + "\n")


def _count(data: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> str:
    """ "120 samples in 3 buckets"."""
    if before is not None and data["buckets"] == before["buckets"]:
        return "as many, but others"
    total, buckets = sum(bucket[-1] for bucket in data["buckets"]), len(data["buckets"])
    if before is not None and (total, buckets) == (sum(b[-1] for b in before["buckets"]), len(before["buckets"])):
        return "as many, in other buckets"
    return f"{total} samples in {buckets} bucket{'s' if buckets != 1 else ''}"
