"""Calls of plugins: whatever goes wrong in one names its package, the part, the method and the samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from t2x_core.entry_points import Plugin, describe, place
from t2x_core.errors import TrainingError, UserError
from t2x_core.types import Batch, SampleKey

LISTED = 4
"""Samples that a message names."""
NOT_THEIRS = (
    UserError,
    TrainingError,
    MemoryError,
    torch.OutOfMemoryError,
    DataDependentOutputException,
    DynamicOutputShapeException,
)
"""Errors that explain themselves, or that the caller looks for."""
ELSEWHERE = ("DataLoader worker (pid", "DefaultCPUAllocator", "[enforce fail at alloc_cpu")
"""Begin the messages of errors that torch may raise in the midst of anything."""


class Calls:
    """Knows whose code each part is.

    Args:
        owners: path in the recipe ("codec", "tasks.text-to-image", "text_encoders.t5") → the plugin. What is inside of
            a path is of the same plugin, if it has none of its own: the data of a task say, "tasks.text-to-image.data".
    """

    def __init__(self, owners: Mapping[str, Plugin] | None = None) -> None:
        self.owners = dict(owners or {})

    @contextmanager
    def __call__(
        self, path: str, method: str, about: Batch | SampleKey | None = None, code: Any = None
    ) -> Iterator[None]:
        """Inside, `method` of the part at `path` runs; an error of it becomes a UserError that says so.

        `code`: what runs, or several candidates: the place of the error if what came back is wrong.
        """
        try:
            yield
        except NOT_THEIRS:
            raise
        except Exception as error:
            if str(error).startswith(ELSEWHERE):
                raise
            problem = f"{method} failed{_about(about)}: {describe(error)}"
            owner = self.owners.get(path) or self.owners.get(path.rpartition(".")[0])
            if owner is None:
                raise UserError(f"{path}: {problem}") from error
            raise owner.refuse(problem, where=place(error, owner.point.module, code)) from error


def _about(what: Batch | SampleKey | None) -> str:
    if what is None:
        return ""
    if isinstance(what, Batch):
        if not what.keys:
            return f" on conditions of {what.task}"
        ids = ", ".join(str(key.id) for key in what.keys[:LISTED]) + (", …" if what.keys[LISTED:] else "")
        first = what.keys[0]
        return f" on samples {ids} of bucket {first.bucket} of {first.task}"
    return f" on sample {what.id} of bucket {what.bucket} of {what.task}"
