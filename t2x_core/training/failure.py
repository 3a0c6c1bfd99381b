"""What is said when training fails."""

from __future__ import annotations

import errno

from t2x_core.data.loader import dead_worker
from t2x_core.errors import LONGEST, TrainingError
from t2x_core.recipe import Recipe
from t2x_core.terminal import printable
from t2x_core.training.out_of_memory import hint, is_out_of_memory

TOO_LARGE = "make the backbone, the samples or trainer.global_batch smaller"

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, or as full as one may make it."""


def explain(error: Exception, recipe: Recipe | None) -> str:
    """One line: what happened and what to do. `recipe` is that of a run to go on with, if there is one."""
    error = dead_worker(error) or error
    if isinstance(error, TrainingError):
        return str(error)
    if is_out_of_memory(error):
        return f"out of memory; {hint(recipe) if recipe else TOO_LARGE}"
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        where = f"cannot write {error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; make room{' and --resume' if recipe else ''}"
    # What a loader process raised comes with its traceback in the text; the last line is what happened.
    what = (str(error).strip() or "no more is said").splitlines()[-1]
    return f"{error.__class__.__name__}: {printable(what, LONGEST)}; T2X_DEBUG=1 shows where"
