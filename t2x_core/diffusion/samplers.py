"""Solvers of dx/dt = velocity(x, t) from t = 1 (noise) to t = 0 (data).

All have one signature: `sampler(velocity, x, times)`, x (B, C, F, H, W), times (steps + 1,) falling from 1 to 0.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x (B, C, F, H, W), t (B,)) → velocity like x."""
Sampler = Callable[[Velocity, Tensor, Tensor], Tensor]


def euler(velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
    """Euler's method: one evaluation a step."""
    for t, t_next in pairwise(times):
        x = x + (t_next - t) * velocity(x, t.expand(len(x)))
    return x


def heun(velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
    """Heun's second-order method: two evaluations a step, one in the last (Karras et al. 2022, arXiv 2206.00364)."""
    for t, t_next in pairwise(times):
        slope = velocity(x, t.expand(len(x)))
        guess = x + (t_next - t) * slope
        if t_next > 0:
            slope = (slope + velocity(guess, t_next.expand(len(x)))) / 2
        x = x + (t_next - t) * slope
    return x


SAMPLERS: dict[str, Sampler] = {"euler": euler, "heun": heun}
