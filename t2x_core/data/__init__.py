"""Sources, the order of samples, and the loaders."""

from t2x_core.data.batch import stack

__all__ = ["stack"]
