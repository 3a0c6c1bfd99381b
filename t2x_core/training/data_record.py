"""What data a run began with: on other data its samples would come in another order, or would be others."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from t2x_core.data.identity import Identity
from t2x_core.errors import UserError
from t2x_core.plain_files import read_json, write_whole
from t2x_core.runs import DATA_FILE
from t2x_core.wording import first_of

log = logging.getLogger("t2x")

FILE_NAME, CONTENTS = DATA_FILE, "data_contents.npz"
"""Their names in a run's folder: hashes of all samples together, and of each, by which those that differ are named."""
PARTS = {"train": "training", "val": "validation"}
Identities = Mapping[str, Mapping[str, Identity]]
"""Task → "train" or "val" → which samples it has."""


def check_data(folder: Path, found: Identities, resume: bool, allow: bool = False) -> None:
    """Keeps in the run's folder which samples there are; on a resume, holds them against what is kept there.

    For the first rank alone.

    Args:
        allow: the data may be other than before; the log says what is.

    Raises:
        UserError: the data is not that with which the run began.
    """
    file = folder / FILE_NAME
    plain = {task: {part: which.plain() for part, which in parts.items()} for task, parts in found.items()}
    others: list[str] = []  # samples in another order
    changed: list[str] = []  # the same samples, of another content
    try:
        kept = read_json(file) if resume else plain
        for task, parts in plain.items():
            for part, now in parts.items():
                before, what = kept[task][part], f"for {PARTS[part]} {task}"
                if (before["buckets"], before["names"]) != (now["buckets"], now["names"]):
                    others.append(f"{what} had {_count(before)}, now {_count(now, before)}")
                elif before.get("contents", now["contents"]) != now["contents"]:  # not kept by older versions
                    changed.append(f"{what} {_changed(folder, f'{task}/{part}', found[task][part])}")
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        log.warning("%s is damaged (%s): the data is not compared with that before", file, error)
    if (others or changed) and not allow:
        order = "samples in another order" if others else "it"
        raise UserError(
            f"the data is not that with which the run began: {'; '.join([*others, *changed])}",
            hint=f"put it back, or --allow data to go on with {order}",
        )
    for change in others:
        log.info("%-10s data: %s; samples come in another order", "changed", change)
    for change in changed:
        log.info("%-10s data: %s", "changed", change)
    folder.mkdir(parents=True, exist_ok=True)
    written = io.BytesIO()
    each: dict[str, Any] = {
        f"{t}/{part}": which.contents for t, parts in found.items() for part, which in parts.items()
    }
    np.savez(written, **each)
    write_whole(folder / CONTENTS, written.getvalue())
    write_whole(file, json.dumps(plain) + "\n")


def _changed(folder: Path, which: str, now: Identity) -> str:
    """ "2 of 120 samples have another content than before: a.png, b.png"."""
    try:
        with np.load(folder / CONTENTS, allow_pickle=False) as kept:
            before = kept[which]
        places = np.flatnonzero(before != now.contents).tolist() if len(before) == len(now.contents) else []
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        places = []
    if not places:
        return "some samples have another content than before"
    have = "has" if len(places) == 1 else "have"
    names = first_of([*now.names(places[:3]), *map(str, places[3:])])
    return f"{len(places)} of {len(now.contents)} samples {have} another content than before: {names}"


def _count(data: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> str:
    """ "120 samples in 3 buckets"."""
    if before is not None and data["buckets"] == before["buckets"]:
        return "as many, but others"
    total, buckets = sum(bucket[-1] for bucket in data["buckets"]), len(data["buckets"])
    if before is not None and (total, buckets) == (sum(b[-1] for b in before["buckets"]), len(before["buckets"])):
        return "as many, in other buckets"
    return f"{total} samples in {buckets} bucket{'s' if buckets != 1 else ''}"
