"""Training on several devices and machines: strategies, how the processes find each other, what if one dies."""

from t2x_core.training.parallel.environment import Environment
from t2x_core.training.parallel.launch import Launch, launched
from t2x_core.training.parallel.ranks import Ranks
from t2x_core.training.parallel.strategies import build_strategy

__all__ = ["Environment", "Launch", "Ranks", "build_strategy", "launched"]
