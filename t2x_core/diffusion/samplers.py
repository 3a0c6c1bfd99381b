"""Solvers of dx/dt = velocity(x, t) from t = 1 (noise) to t = 0 (data).

All have one signature: `sampler(velocity, x, times)`, x (B, C, F, H, W), times (steps + 1,) falling from 1 to 0.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x (B, C, F, H, W), t (B,)) → velocity like x."""
Sampler = Callable[[Velocity, Tensor, Tensor], Tensor]


def euler(velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
    """Euler's method: one evaluation a step."""
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        x = x + (t_next - t) * velocity(x, t.expand(len(x)))
    return x


def heun(velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
    """Heun's second-order method (Karras et al. 2022, arXiv 2206.00364, algorithm 1): two evaluations, the last step one."""
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        slope = velocity(x, t.expand(len(x)))
        guess = x + (t_next - t) * slope
        if t_next > 0:
            slope = (slope + velocity(guess, t_next.expand(len(x)))) / 2
        x = x + (t_next - t) * slope
    return x


SAMPLERS: dict[str, Sampler] = {"euler": euler, "heun": heun}
