"""What is said when training fails."""

from __future__ import annotations

from t2x_core.data.loader import dead_worker
from t2x_core.errors import LONGEST, TrainingError
from t2x_core.recipe import Recipe
from t2x_core.terminal import printable
from t2x_core.training.out_of_memory import hint, is_out_of_memory


def explain(error: Exception, recipe: Recipe) -> str:
    """One line: what happened and what to do."""
    error = dead_worker(error) or error
    if isinstance(error, TrainingError):
        return str(error)
    if is_out_of_memory(error):
        return f"out of memory; {hint(recipe)}"
    # What a loader process raised comes with its traceback in the text; the last line is what happened.
    what = (str(error).strip() or "no more is said").splitlines()[-1]
    return f"{error.__class__.__name__}: {printable(what, LONGEST)}; T2X_DEBUG=1 shows where"
