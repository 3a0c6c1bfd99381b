"""Training a recipe."""

from t2x_core.training.fit import FitResult, fit

__all__ = ["FitResult", "fit"]
