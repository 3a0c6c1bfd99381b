"""Solvers of dx/dt = velocity(x, t) from t = 1 (noise) to t = 0 (data).

All have one signature: `sampler(velocity, x, times, callback)`, x (B, C, F, H, W), times (steps + 1,) falling from 1
to 0; the callback is called after each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x (B, C, F, H, W), t (B,)) → velocity like x."""
Callback = Callable[[int, int, Tensor], None]
"""(steps done, from 1; steps in all; latents (B, C, F, H, W) after this step)."""
Sampler = Callable[[Velocity, Tensor, Tensor, Callback], Tensor]


def ignore(step: int, steps: int, latents: Tensor) -> None:
    """The callback that does nothing."""


def euler(velocity: Velocity, x: Tensor, times: Tensor, callback: Callback = ignore) -> Tensor:
    """Euler's method: one evaluation a step."""
    for i, (t, t_next) in enumerate(pairwise(times)):
        x = x + (t_next - t) * velocity(x, t.expand(len(x)))
        callback(i + 1, len(times) - 1, x)
    return x


def heun(velocity: Velocity, x: Tensor, times: Tensor, callback: Callback = ignore) -> Tensor:
    """Heun's second-order method: two evaluations a step, one in the last (Karras et al. 2022, arXiv 2206.00364)."""
    for i, (t, t_next) in enumerate(pairwise(times)):
        slope = velocity(x, t.expand(len(x)))
        guess = x + (t_next - t) * slope
        if t_next > 0:
            slope = (slope + velocity(guess, t_next.expand(len(x)))) / 2
        x = x + (t_next - t) * slope
        callback(i + 1, len(times) - 1, x)
    return x


def dpmpp_2m(velocity: Velocity, x: Tensor, times: Tensor, callback: Callback = ignore) -> Tensor:
    """DPM-Solver++(2M): second order, one evaluation a step (Lu et al. 2022, arXiv 2211.01095, algorithm 2).

    On the rectified path alpha = 1 - t and sigma = t. The first step and the last are of first order.
    """
    clean_before, h_before = x, math.inf
    last = len(times) - 2
    for i, (t, t_next) in enumerate(pairwise(times.tolist())):
        clean = _clean(velocity, x, times[i])
        h = _step(t, t_next)
        corrected = clean
        if 0 < i < last:
            corrected = clean + h / h_before / 2 * (clean - clean_before)
        x = t_next / t * x + (1 - t_next) * -math.expm1(-h) * corrected
        clean_before, h_before = clean, h
        callback(i + 1, last + 1, x)
    return x


def unipc(velocity: Velocity, x: Tensor, times: Tensor, callback: Callback = ignore) -> Tensor:
    """UniPC of second order (bh2): each evaluation first corrects the step that led to it, so one is enough a step
    (Zhao et al. 2023, arXiv 2302.04867, algorithms 5 and 6 for predictions of the data)."""
    steps = times.tolist()
    last = len(steps) - 2
    clean_before = clean = x_before = x
    h_before, h = math.inf, math.inf
    for i, (t, t_next) in enumerate(pairwise(steps)):
        found = _clean(velocity, x, times[i])
        if i:  # the corrector of the step from steps[i - 1] to t
            x = _uni(x_before, steps[i - 1], t, clean, clean_before, found, h, h_before if i > 1 else math.inf)
            clean_before = clean
        x_before, h_before, h, clean = x, h, _step(t, t_next), found
        x = _uni(x, t, t_next, clean, clean_before, None, h, h_before if 0 < i < last else math.inf)
        callback(i + 1, last + 1, x)
    return x


def _uni(
    x: Tensor, t: float, t_next: float, clean: Tensor, before: Tensor, after: Tensor | None, h: float, h_before: float
) -> Tensor:
    """One step of UniPC from t to t_next: its predictor, or with the evaluation `after` at t_next its corrector.

    An infinite `h_before` leaves `before` out: the step is of one order less.
    """
    b = -math.expm1(-h)  # B(h) of the variant bh2, with its sign turned
    x = t_next / t * x + (1 - t_next) * b * clean
    slope = None if math.isinf(h_before) or math.isinf(h) else (before - clean) / (-h_before / h)
    if after is None:
        return x if slope is None else x + (1 - t_next) * b * slope / 2
    if slope is None:
        return x + (1 - t_next) * b * (after - clean) / 2
    # weights of both differences: the solution of the two conditions of order, with r = -h_before / h and 1
    r, phi_1 = -h_before / h, math.expm1(-h)
    phi_2 = phi_1 / -h - 1
    first = phi_2 / phi_1
    second = 2 * (phi_2 / -h - 0.5) / phi_1
    weight = (first - second) / (1 - r)
    return x + (1 - t_next) * b * (weight * (before - clean) / r + (first - weight) * (after - clean))


def _clean(velocity: Velocity, x: Tensor, t: Tensor) -> Tensor:
    """The clean sample that the velocity at t points at."""
    return x - t * velocity(x, t.expand(len(x)))


def _step(t: float, t_next: float) -> float:
    """The step in half the logarithm of the signal-to-noise ratio, log((1 - t) / t); infinite from t = 1 and to 0."""
    return math.inf if t == 1 or t_next == 0 else math.log((1 - t_next) / t_next) - math.log((1 - t) / t)


SAMPLERS: dict[str, Sampler] = {"euler": euler, "heun": heun, "dpmpp-2m": dpmpp_2m, "unipc": unipc}
