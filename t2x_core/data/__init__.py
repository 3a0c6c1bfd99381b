"""Sources, the order of samples, and the loaders."""

from t2x_core.data.batch import stack
from t2x_core.data.made import Made, MadeData, MadeSource

__all__ = ["Made", "MadeData", "MadeSource", "stack"]
