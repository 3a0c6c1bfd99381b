"""Networks that take turns, with a measurement of the machine between any two of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass
class Rounds:
    """What one network did, round by round."""

    seconds: list[float] = field(default_factory=list)
    """Of one call."""
    peaks: list[float] = field(default_factory=list)
    """Operations per second of a product of matrices, right before and after (harmonic mean)."""


def run_rounds(
    calls: Mapping[str, Callable[[], float]],
    peak: Callable[[], float],
    rounds: int,
    budget: float,
    least: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Rounds]:
    """Lets each have its turn in every round; each round begins with another one.

    Args:
        calls: of each network, what returns the seconds of one call.
        peak: returns operations per second.
        rounds: at most so many.
        budget: seconds; no round is begun that would probably end later, but `least` are made.
        clock: seconds since some moment.
    """
    turns = {name: Rounds() for name in calls}
    names = list(calls)
    began = clock()
    for done in range(rounds):
        spent = clock() - began
        if done >= least and spent + spent / done > budget:
            break
        start = done % len(names)
        before = peak()
        for name in names[start:] + names[:start]:
            seconds, after = calls[name](), peak()
            turns[name].seconds.append(seconds)
            turns[name].peaks.append(2 / (1 / before + 1 / after))
            before = after
    return turns
