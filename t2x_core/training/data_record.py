"""What data a run began with: on other data its samples would come in another order, and it would not go on exactly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2x_core.errors import UserError

FILE_NAME = "data.json"
"""Its name in a run's folder."""
PARTS = {"train": "training", "val": "validation"}


def check_data(folder: Path, found: Mapping[str, Any], resume: bool) -> None:
    """Keeps in the run's folder what `MixedData.fingerprint` found; on a resume, holds it against what is kept there.

    For the first rank alone.

    Raises:
        UserError: the data is not that with which the run began.
    """
    file = folder / FILE_NAME
    if not (resume and file.is_file()):
        folder.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f".{FILE_NAME}.part")
        beside.write_text(json.dumps(found) + "\n")
        beside.replace(file)
        return
    try:
        kept = json.loads(file.read_text())
        changes = [
            f"for {words} {task} had {_count(kept[task][part])}, now {_count(now[part], kept[task][part])}"
            for task, now in found.items()
            for part, words in PARTS.items()
            if now[part] != kept[task][part]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged", hint="delete it to go on without a comparison of the data") from error
    if changes:
        raise UserError(
            f"the data is not that with which the run began: {'; '.join(changes)}",
            hint=f"put it back, or delete {file} to go on with samples in another order",
        )


def _count(data: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> str:
    """ "120 samples in 3 buckets"."""
    if before is not None and data["buckets"] == before["buckets"]:
        return "as many, but others"
    total, buckets = sum(bucket[-1] for bucket in data["buckets"]), len(data["buckets"])
    if before is not None and (total, buckets) == (sum(b[-1] for b in before["buckets"]), len(before["buckets"])):
        return "as many, in other buckets"
    return f"{total} samples in {buckets} bucket{'s' if buckets != 1 else ''}"
