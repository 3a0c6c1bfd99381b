"""Which share of the work this process does: processes share it out without talking to each other."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from t2x_core.errors import UserError


class Part(NamedTuple):
    """One of several equal shares."""

    number: int = 0
    """Counted from 0."""
    total: int = 1

    def has(self, key: bytes) -> bool:
        """Whether an entry is of this share."""
        return int.from_bytes(key[:8], "big") % self.total == self.number

    def __str__(self) -> str:
        return f"part {self.number + 1} of {self.total}"


def parse_part(text: str) -> Part:
    """ "2/8": the second of eight; UserError if it is none."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f'--part is "{text}"', where="command line", hint="write 1/8 … 8/8 for eight processes")
    return Part(int(found[1]) - 1, int(found[2]))


def part_of(rank: int, ranks: int, environ: Mapping[str, str] = os.environ) -> Part:
    """The share of a process among the ranks of a launcher and the tasks of a SLURM array."""
    first, last, step = (environ.get(f"SLURM_ARRAY_TASK_{name}", "") for name in ("MIN", "MAX", "STEP"))
    task = environ.get("SLURM_ARRAY_TASK_ID", "")
    if not task:
        return Part(rank, ranks)
    numbers = (task, first, last, step or "1")
    if not all(number.isdecimal() for number in numbers) or int(step or 1) < 1:
        raise UserError(
            "SLURM_ARRAY_TASK_ID is set, and SLURM_ARRAY_TASK_MIN, _MAX and _STEP do not say of which array it is",
            where="environment",
            hint="write --part i/n, or unset it",
        )
    tasks = range(int(first), int(last) + 1, int(step or 1))
    if int(task) not in tasks or environ.get("SLURM_ARRAY_TASK_COUNT", str(len(tasks))) != str(len(tasks)):
        raise UserError(
            f"task {task} of a SLURM array is none of {first}, {int(first) + int(step or 1)}, … {last}",
            where="environment",
            hint="write --part i/n",
        )
    return Part(tasks.index(int(task)) * ranks + rank, len(tasks) * ranks)
