"""The order of samples: a pure function of (seed, step), the same for any number of ranks and at any step at once.

Each bucket is an endless stream: its samples in a random order, then again in another one, and so on. Each optimizer
step takes the next batch of samples of one bucket's stream, so nothing is left over at the end of an epoch. If
the batch divides every bucket, an epoch shows each sample exactly once; if not, what is left comes in the next.

Where random reads cost much, the order is random in blocks of neighbours (`in_blocks`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from t2x_core import keyed
from t2x_core.keyed import Permutation
from t2x_core.types import Bucket, SampleKey

MIXED = 16
"""Blocks that are read side by side."""


def in_blocks(places: np.ndarray, count: int, block: int, seed: int, *words: keyed.Word) -> np.ndarray:
    """Which of `count` samples stand at these places, both int64, of an order that is random in blocks.

    Blocks of `block` neighbours come in a random order, MIXED of them at a time. Of these it is random whose turn it
    is, and each gives its samples from the first to the last; so files and row groups are read forwards, few at a time.
    """
    starts = _block_order(count, block, seed, *words)[1]
    windows = np.searchsorted(starts, places, side="right") - 1
    ids = np.empty_like(places)
    for window in np.unique(windows).tolist():
        here = windows == window
        ids[here] = _window(count, block, window, seed, *words)[places[here] - starts[window]]
    return ids


@functools.lru_cache(maxsize=64)
def _block_order(count: int, block: int, seed: int, *words: keyed.Word) -> tuple[np.ndarray, np.ndarray]:
    """The blocks in their order, and at which place each MIXED of them begin."""
    blocks = -(-count // block)
    order = Permutation(blocks, seed, "blocks", *words)(np.arange(blocks))
    ends = np.cumsum(np.minimum(block, count - order * block))
    return order, np.insert(ends, 0, 0)[:-1:MIXED]


@functools.lru_cache(maxsize=256)
def _window(count: int, block: int, window: int, seed: int, *words: keyed.Word) -> np.ndarray:
    """The samples of blocks that are read side by side, in their order."""
    blocks = _block_order(count, block, seed, *words)[0][window * MIXED : (window + 1) * MIXED]
    members = [np.arange(first, min(first + block, count)) for first in (blocks * block).tolist()]
    whose = np.repeat(np.arange(len(members)), [len(there) for there in members])
    whose = whose[Permutation(len(whose), seed, "mixed", *words, window)(np.arange(len(whose)))]
    ids = np.empty(len(whose), np.int64)
    ids[np.argsort(whose, kind="stable")] = np.concatenate(members)
    return ids


class TaskSchedule:
    """Whose turn it is, in proportion to weights: a Weyl sequence, so evenly spread and known for any turn at once."""

    GOLDEN = np.uint64(keyed.GOLDEN)

    def __init__(self, weights: Sequence[float], seed: int, *words: keyed.Word) -> None:
        shares = np.cumsum(np.asarray(weights, dtype=np.float64))
        # Thresholds in 2⁻⁵³ of the whole: float64 holds these exactly.
        self.thresholds = (shares[:-1] / shares[-1] * 2.0**53).astype(np.uint64)
        self.offset = np.uint64(keyed.digest(seed, *words))
        self._counted, self._counts = 0, np.zeros(len(shares), dtype=np.int64)

    def choices(self, start: int, stop: int) -> np.ndarray:
        """Who has turns start … stop - 1."""
        x = np.arange(start, stop, dtype=np.uint64) * self.GOLDEN + self.offset
        return np.searchsorted(self.thresholds, x >> np.uint64(11), side="right")

    def __call__(self, turn: int) -> tuple[int, int]:
        """Who has this turn, and how many it had before."""
        if turn < self._counted:
            self._counted, self._counts = 0, np.zeros_like(self._counts)
        earlier = self.choices(self._counted, turn)  # all of them once after a resume, then one a step
        self._counts = self._counts + np.bincount(earlier, minlength=len(self._counts))
        self._counted = turn
        choice = int(self.choices(turn, turn + 1)[0])
        return choice, int(self._counts[choice])


class BucketSchedule:
    """Which bucket has a turn, so that every epoch reads of each bucket what it holds, to less than one batch.

    Systematic sampling: the buckets lie side by side on a line, each as long as it has turns in an epoch (its samples
    over its batch); the turns of an epoch fall on every whole length of it, from an offset of the epoch's own, in a
    random order. All in integers: a turn is `unit` long, a common multiple of the batches.
    """

    EPOCHS_AT_ONCE = 4096

    def __init__(self, counts: Sequence[int], batches: Sequence[int], seed: int, *words: keyed.Word) -> None:
        self.unit = math.lcm(*batches)
        lengths = [count * (self.unit // batch) for count, batch in zip(counts, batches, strict=True)]
        self.ends = np.cumsum(np.asarray(lengths, dtype=np.int64))
        self.seed, self.words = seed, words
        self.offset = np.uint64(keyed.digest(seed, *words))
        self._first = -1

    def offsets(self, epochs: np.ndarray) -> np.ndarray:
        """Where the first turn of each epoch falls, 0 … unit - 1: a Weyl sequence, so that no bucket is favoured."""
        share = (epochs.astype(np.uint64) * TaskSchedule.GOLDEN + self.offset) >> np.uint64(11)
        return (share.astype(np.float64) * 2.0**-53 * self.unit).astype(np.int64)

    def per_epoch(self, epochs: np.ndarray) -> np.ndarray:
        """TaskSchedule of each bucket in each epoch, (epochs, buckets)."""
        before = np.insert(self.ends, 0, 0) - self.offsets(epochs)[:, None]  # of each border of the line
        return np.diff(-(-before // self.unit), axis=1)

    def __call__(self, turn: int) -> tuple[int, int]:
        """Which bucket has this turn, and how many it had before."""
        if len(self.ends) == 1:
            return 0, turn
        if self._first < 0 or turn < self._first:
            self._first, self._counts = 0, np.zeros_like(self.ends)  # turns before the epoch, of all and of each bucket
            self._enter(0)
        while turn >= self._first + len(self._choices):
            self._advance(turn)
        choice = int(self._choices[turn - self._first])
        earlier = np.count_nonzero(self._choices[: turn - self._first] == choice)
        return choice, int(self._counts[choice] + earlier)

    def _advance(self, turn: int) -> None:
        """To the epoch of `turn`, or as far towards it as is looked at in one go."""
        away = (turn - self._first) * self.unit // int(self.ends[-1]) + 2
        turns = self.per_epoch(np.arange(self._epoch, self._epoch + min(away, self.EPOCHS_AT_ONCE)))
        ends = self._first + np.cumsum(turns.sum(1))
        passed = int(np.searchsorted(ends, turn, side="right"))
        self._first = int(ends[passed - 1])
        self._counts = self._counts + turns[:passed].sum(0)
        self._enter(self._epoch + passed)

    def _enter(self, epoch: int) -> None:
        self._epoch = epoch
        count = int(self.per_epoch(np.asarray([epoch])).sum())
        places = Permutation(count, self.seed, "turns", *self.words, epoch)(np.arange(count))
        units = places * self.unit + self.offsets(np.asarray([epoch]))
        self._choices = np.searchsorted(self.ends, units, side="right")


@dataclass(frozen=True)
class _TaskStream:
    name: str
    buckets: Sequence[Bucket]
    batches: Sequence[int]
    turns: BucketSchedule


BatchSize = Callable[[str, Bucket], int]
"""(task, shape) → samples of one optimizer step, over all ranks and micro-batches."""


class SampleOrder:
    """Optimizer step → the keys of its global batch. One task and one bucket a step.

    Args:
        seed: the recipe's seed.
        tasks: name → (weight, buckets of its training source).
        batch_size: of each task and shape.
    """

    def __init__(self, seed: int, tasks: Mapping[str, tuple[float, Sequence[Bucket]]], batch_size: BatchSize) -> None:
        self.seed = seed
        self.turns = TaskSchedule([weight for weight, _ in tasks.values()], seed, "task")
        self.streams = []
        for name, (_, buckets) in tasks.items():
            batches = [batch_size(name, bucket) for bucket in buckets]
            turns = BucketSchedule([bucket.count for bucket in buckets], batches, seed, "bucket", name)
            self.streams.append(_TaskStream(name, buckets, batches, turns))

    def keys(self, step: int, attempt: int = 0) -> list[SampleKey]:
        """The global batch of optimizer step `step` (from 0), slot by slot."""
        task, task_turn = self.turns(step)
        stream = self.streams[task]
        bucket, bucket_turn = stream.turns(task_turn)
        ids = self.ids(stream.name, bucket, stream.buckets[bucket], stream.batches[bucket], bucket_turn)
        return [SampleKey(stream.name, bucket, id, step, slot, attempt) for slot, id in enumerate(ids)]

    def ids(self, task: str, bucket: int, shape: Bucket, batch: int, turn: int) -> list[int]:
        """The `batch` samples of a bucket in its turn `turn`."""
        count = shape.count
        places = np.arange(turn * batch, (turn + 1) * batch, dtype=np.int64)
        epochs, places = places // count, places % count
        ids = np.empty_like(places)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            words = self.seed, "order", task, bucket, int(epoch)
            if shape.block:
                ids[now] = in_blocks(places[now], count, shape.block, *words)
            else:
                ids[now] = Permutation(count, *words)(places[now])
        return ids.tolist()


class MicroBatches:
    """Batch sampler of one rank: its share of each optimizer step, one list of keys a micro-batch.

    It starts at the optimizer step that `first_step` returns when iteration begins, so a resumed run goes on exactly.
    """

    def __init__(
        self,
        order: SampleOrder,
        *,
        steps: int,
        accumulation: int,
        rank: int,
        ranks: int,
        first_step: Callable[[], int],
        attempt: int = 0,
    ) -> None:
        self.order, self.steps, self.accumulation = order, steps, accumulation
        self.rank, self.ranks, self.first_step, self.attempt = rank, ranks, first_step, attempt

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for step in range(self.first_step(), self.steps):
            keys = self.order.keys(step, self.attempt)
            size = len(keys) // (self.accumulation * self.ranks)
            for micro in range(self.accumulation):
                start = (micro * self.ranks + self.rank) * size
                yield keys[start : start + size]
