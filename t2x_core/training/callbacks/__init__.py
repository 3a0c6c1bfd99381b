"""What watches a run, one callback a file."""

from t2x_core.training.callbacks.board import Board
from t2x_core.training.callbacks.cache_misses import CacheMisses
from t2x_core.training.callbacks.checkpoints import Checkpoints
from t2x_core.training.callbacks.guard import Guard
from t2x_core.training.callbacks.interruption import Interruption
from t2x_core.training.callbacks.metrics import Metrics
from t2x_core.training.callbacks.profile import Profile
from t2x_core.training.callbacks.progress import Progress
from t2x_core.training.callbacks.sampling import Sampling
from t2x_core.training.callbacks.validation import Validation

__all__ = [
    "Board",
    "CacheMisses",
    "Checkpoints",
    "Guard",
    "Interruption",
    "Metrics",
    "Profile",
    "Progress",
    "Sampling",
    "Validation",
]
