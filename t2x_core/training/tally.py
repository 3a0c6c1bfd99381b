"""What the steps since the last point of the figures add up to: of all ranks, and kept in checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor

from t2x_core.training.loss_by_t import sums_by_t


@dataclass(frozen=True)
class Tally:
    """Sums over optimizer steps, as plain values."""

    steps: int
    losses: dict[str, list[list[float]]]
    """Task → sum of the losses and number of samples of each bin of t, (2, BINS)."""
    terms: dict[str, list[float]]
    """ "task/term" → sum of its values, and number."""
    squares: list[float]
    """Squared gradient norm by part of the network; steps of which one is not finite are left out, here and below."""
    used: list[float]
    """Steps that had a gradient, by part."""
    taken: float
    """Steps."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.steps + other.steps,
            {
                task: [_sum(a, b) for a, b in zip(own, other.losses[task], strict=True)]
                for task, own in self.losses.items()
            },
            {
                name: _sum(self.terms.get(name, (0.0, 0.0)), other.terms.get(name, (0.0, 0.0)))
                for name in (*self.terms, *(name for name in other.terms if name not in self.terms))
            },
            _sum(self.squares, other.squares),
            _sum(self.used, other.used),
            self.taken + other.taken,
        )

    def fits(self, tasks: Collection[str], parts: int) -> bool:
        """Whether it is of these tasks, and of as many parts of the network."""
        return set(self.losses) == set(tasks) and len(self.squares) == parts

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return asdict(self)


def _sum(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a + b for a, b in zip(one, other, strict=True)]


def tally(
    trainer: Trainer,
    steps: int,
    losses: Mapping[str, Sequence[Tensor]],
    times: Mapping[str, Sequence[Tensor]],
    terms: Mapping[str, Sequence[Tensor]],
    squares: Sequence[Tensor],
    parts: int,
) -> Tally:
    """Adds up what this rank noted of `steps` steps, and what the others did; all ranks call it at once.

    Args:
        losses, times: by task, (B,) each.
        terms: by "task/term", (B,) each.
        squares: of each step, squared gradient norms (parts,), the same on all ranks.
    """
    device = trainer.strategy.root_device
    own = torch.stack([sums_by_t(losses[task], times[task], device) for task in losses])
    summed = trainer.strategy.reduce(own, reduce_op="sum").tolist()
    every = torch.stack(list(squares)).double() if squares else torch.zeros(0, parts, dtype=torch.float64)
    finite = every.isfinite().all(1, keepdim=True)  # other steps were skipped
    every = every.where(finite, 0)
    return Tally(
        steps,
        dict(zip(losses, summed, strict=True)),
        _terms(trainer, terms, device),
        every.sum(0).tolist(),
        (every != 0).double().sum(0).tolist(),
        float(finite.sum()),
    )


def _terms(trainer: Trainer, terms: Mapping[str, Sequence[Tensor]], device: torch.device) -> dict[str, list[float]]:
    """Sum and number of the finite values of each term, over all ranks."""
    names = set(terms)
    if trainer.world_size > 1:  # a loss may leave a term out where it has nothing to say
        everyone: list[set[str]] = [set() for _ in range(trainer.world_size)]
        dist.all_gather_object(everyone, names)
        names = set().union(*everyone)
    if not names:
        return {}
    order = sorted(names)
    own = torch.stack([_sum_and_count(terms.get(name, ()), device) for name in order])
    return dict(zip(order, trainer.strategy.reduce(own, reduce_op="sum").tolist(), strict=True))


def _sum_and_count(values: Sequence[Tensor], device: torch.device) -> Tensor:
    """Of the finite ones of values (B,) each: their sum and number, (2,), in float64."""
    if not values:
        return torch.zeros(2, dtype=torch.float64, device=device)
    every = torch.cat(list(values)).double()
    finite = every.isfinite()
    return torch.stack([every.where(finite, 0).sum(), finite.sum().double()])
