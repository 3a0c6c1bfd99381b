"""Training on several devices and machines: strategies, how the processes find each other, what if one dies."""

from t2x_core.training.parallel.launch import Launch, agree_on, connect, launched
from t2x_core.training.parallel.strategies import build_strategy

__all__ = ["Launch", "agree_on", "build_strategy", "connect", "launched"]
