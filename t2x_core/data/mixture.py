"""The data module that the Trainer sees: one keyed batch sampler over the sources of all tasks, one or several."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import lightning as L

from t2x_core.calls import Calls
from t2x_core.data.identity import Identity
from t2x_core.data.loader import KeyedDataset, KeyedLoader, Reading, check_pickles
from t2x_core.data.order import BatchSize, MicroBatches, SampleOrder
from t2x_core.data.text import Tokenizer
from t2x_core.errors import UserError
from t2x_core.interfaces import Source, TaskDataModule
from t2x_core.quarantine import Quarantine
from t2x_core.types import VAL_STEP, Batch, Bucket, SampleKey


class FixedBatches:
    """Batch sampler of the validation set: every sample once, a batch from one bucket, shared out over the ranks.

    All ranks get the same number of batches, and the n-th is of the same task everywhere, since each forward pass of
    a sharded network is one of all ranks together. Where a task's batches do not come out even, the last one is given
    to the remaining ranks once more; `counted` says which are to be left out.
    """

    def __init__(self, sources: Mapping[str, Source], size: BatchSize, rank: int, ranks: int) -> None:
        self.batches: list[list[SampleKey]] = []
        self.counted: list[bool] = []
        """For each batch: whether it counts; no other rank has it then."""
        slot = 0
        for task, source in sources.items():
            keys: list[list[SampleKey]] = []
            for bucket, shape in enumerate(source.buckets()):
                step = size(task, shape)
                for start in range(0, shape.count, step):
                    ids = range(start, min(start + step, shape.count))
                    keys.append([SampleKey(task, bucket, id, VAL_STEP, slot + id) for id in ids])
                slot += shape.count
            for place in range(rank, -(-len(keys) // ranks) * ranks, ranks):
                self.batches.append(keys[min(place, len(keys) - 1)])
                self.counted.append(place < len(keys))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return iter(self.batches)


class MixedData(L.LightningDataModule):
    """Loaders over several tasks' data.

    Args:
        modules: task name → its data module.
        weights: task name → its share of the optimizer steps (any positive numbers).
        seed: the recipe's seed.
        batch_size: samples of one optimizer step of each task and shape, over all ranks and micro-batches.
        accumulation: micro-batches of one optimizer step.
        max_steps: optimizer steps of the whole run.
        workers: loader processes of each rank; 0 = load in the training process.
        stall_minutes: how long a batch may take (`KeyedLoader`).
        quarantine: where the modules report files that cannot be read.
        error_location: adds file and line of the block at a path of the recipe to a UserError (`Composed`).
        blocks: task name → path of the block that its data is made from (tasks.<name>).
        tokenizer: makes the text encoders' numbers of captions; None: nothing reads text.
        latent_shape: UserError if the codec or the backbone cannot have samples of a bucket of a task.
        calls: knows which plugin each task is of.
        cached: (task, source, whether it is trained on) → the source with what the cache has of it.
    """

    def __init__(
        self,
        modules: Mapping[str, TaskDataModule],
        weights: Mapping[str, float],
        *,
        seed: int,
        batch_size: BatchSize,
        accumulation: int,
        max_steps: int,
        workers: int,
        stall_minutes: float | None = None,
        quarantine: Quarantine | None = None,
        error_location: Callable[[str], AbstractContextManager[Any]] = nullcontext,
        blocks: Mapping[str, str] | None = None,
        tokenizer: Tokenizer | None = None,
        latent_shape: Callable[[Bucket, str], object] | None = None,
        calls: Calls | None = None,
        cached: Callable[[str, Source, bool], Source] = lambda task, source, train: source,
    ) -> None:
        super().__init__()
        self.cached = cached
        self.tokenizer, self.latent_shape, self.calls = tokenizer, latent_shape, calls or Calls()
        self.quarantine, self.error_location, self.blocks = quarantine or Quarantine(), error_location, blocks or {}
        self.modules, self.weights = dict(modules), dict(weights)
        self.seed, self.batch_size, self.accumulation = seed, batch_size, accumulation
        self.max_steps, self.workers, self.stall_minutes = max_steps, workers, stall_minutes
        self.attempt = 0
        """Roll-backs so far: what is random about the samples is drawn anew after each."""
        self._identities: dict[str, dict[str, Identity]] | None = None

    def prepare_data(self) -> None:
        for name, module in self.modules.items():
            with self.located(name, "prepare_data"):
                module.prepare_data()

    def setup(self, stage: str) -> None:
        for name, module in self.modules.items():
            with self.located(name, "setup"):
                module.setup(stage)
            for which in ("train_source", "val_source"):
                with self.located(name, which):
                    source = getattr(module, which)()
                    self._check_source(name, source, which)
                with self.calls(f"tasks.{name}.data", which, code=[*vars(source).values(), type(source)]):
                    check_pickles(source)

    @contextmanager
    def located(self, task: str, method: str) -> Iterator[None]:
        """A call of the data module of a task: its errors name the plugin, and the place in the recipe."""
        with self.error_location(self.blocks.get(task, f"tasks.{task}")), self.calls(f"tasks.{task}.data", method):
            yield

    def _check_source(self, task: str, source: Source, which: str) -> None:
        buckets = source.buckets()
        there = sum(bucket.count for bucket in buckets)
        if not there and not len(source):
            what = "training" if which == "train_source" else "validation"
            raise UserError(f"there are no {what} samples")
        if there != len(source):
            raise ValueError(f"its buckets hold {there} samples, its length is {len(source)}")
        for bucket in buckets:
            if self.latent_shape is not None and bucket.count:
                self.latent_shape(bucket, task)

    def check(self) -> None:
        """Finds what is wrong with the data before anything is trained or written; UserError says it.

        The Trainer calls `prepare_data` and `setup` again, when all is known.
        """
        if self.workers > (most := max(64, 8 * _cores())):
            with self.error_location("trainer"):
                raise UserError(f"{self.workers} loader processes are more than {most}", key="workers")
        self.prepare_data()
        self.setup("fit")

    def describe(self) -> list[str]:
        """Lines for the log on what there is to train on; after `check`."""
        several = len(self.modules) > 1
        lines = [f"{name}: {line}" if several else line for name in self.modules for line in self._lines(name)]
        cores = _cores()
        if self.workers > cores:
            lines.append(f"{self.workers} loader processes share {cores} cores: trainer.workers={cores} would do")
        return [f"{'' if i else 'data':11}{line}" for i, line in enumerate(lines)]

    def _lines(self, name: str) -> Sequence[str]:
        with self.located(name, "describe"):
            return self.modules[name].describe()

    def val_conditions(self, name: str, count: int) -> Batch:
        """`count` held-out conditions of a task; after `check`."""
        with self.located(name, "val_conditions"):
            found = self.modules[name].val_conditions(count)
            if not isinstance(found, Batch) or len(found) != count:
                raise ValueError(f"it must return a Batch of {count} conditions, without pixels")
            return replace(found, task=name)

    def fingerprint(self) -> dict[str, Any]:
        """All that samples and their order depend on besides the recipe, as plain values; after `check`."""
        return {
            task: {part: which.plain() for part, which in parts.items()} for task, parts in self.identities().items()
        }

    def identities(self) -> Mapping[str, Mapping[str, Identity]]:
        """Task → "train" or "val" → which samples it has; after `check`."""
        if self._identities is None:
            self._identities = {
                name: {"train": Identity(name, module.train_source()), "val": Identity(name, module.val_source())}
                for name, module in self.modules.items()
            }
        return self._identities

    def teardown(self, stage: str) -> None:
        for module in self.modules.values():
            module.teardown(stage)

    def train_dataloader(self) -> KeyedLoader:
        trainer = self.trainer
        assert trainer is not None
        return self.train_loader(trainer.global_rank, trainer.world_size, lambda: trainer.global_step)

    def train_loader(
        self, rank: int, ranks: int, first_step: Callable[[], int], workers: int | None = None
    ) -> KeyedLoader:
        """The training batches of one rank, from the optimizer step that `first_step` returns when it is iterated;
        `workers`: another number of loader processes."""
        sources = self.train_sources()
        batches = MicroBatches(
            self.order(sources),
            steps=self.max_steps,
            accumulation=self.accumulation,
            rank=rank,
            ranks=ranks,
            first_step=first_step,
            attempt=self.attempt,
        )
        return self._loader(sources, batches, self.workers if workers is None else workers)

    def train_sources(self) -> dict[str, Source]:
        """Task → its training samples; after `setup`."""
        return {name: self.cached(name, module.train_source(), True) for name, module in self.modules.items()}

    def val_sources(self) -> dict[str, Source]:
        """Task → its validation samples; after `setup`."""
        return {name: self.cached(name, module.val_source(), False) for name, module in self.modules.items()}

    def order(self, sources: Mapping[str, Source]) -> SampleOrder:
        """Which samples of these sources each optimizer step takes."""
        tasks = {name: (self.weights[name], source.buckets()) for name, source in sources.items()}
        return SampleOrder(self.seed, tasks, self.batch_size)

    def _loader(self, sources: Mapping[str, Source], batches: Any, workers: int) -> KeyedLoader:
        return KeyedLoader(sources, batches, workers, self.stall_minutes, self.tokenizer, self.calls)

    def batch(self, step: int, attempt: int) -> Batch:
        """The global batch of optimizer step `step` (from 0), in the order of its slots; after `setup`."""
        sources = self.train_sources()
        return self._read(sources, self.order(sources).keys(step, attempt))

    def example(self, task: str, bucket: int) -> Batch:
        """A batch of one training sample of a bucket, with its text as long as texts can be; after `setup`.

        It stands for all of its shape. This run may never read its caption, so a cache of text need not have it; then
        the empty one, which a cache has, takes its place, or a text encoder would be loaded for it.
        """
        batch = self._read(self.train_sources(), [SampleKey(task, bucket, 0, 0, 0)], short=False)
        cached = None if self.tokenizer is None else self.tokenizer.cached
        if self.tokenizer is None or cached is None or cached.encoders.keys() <= batch.encoded_text.keys():
            return batch
        return self.tokenizer.put(replace(batch, captions=("",)), short=False)

    def _read(self, sources: Mapping[str, Source], keys: Sequence[SampleKey], short: bool = True) -> Batch:
        return KeyedDataset(sources, Reading(sources, 0), self.tokenizer, self.calls).read(keys, short)

    def state_dict(self) -> dict[str, Any]:
        return {"attempt": self.attempt}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The Trainer calls this before `train_dataloader`. Attempts only count up: a roll-back's is kept."""
        self.attempt = max(self.attempt, state_dict["attempt"])

    def val_batches(self, rank: int, ranks: int) -> FixedBatches:
        """Which validation samples a rank reads, in batches of the size of a micro-batch; after `check`."""
        sources = self.val_sources()
        parts = self.accumulation * ranks
        return FixedBatches(sources, lambda task, shape: max(1, self.batch_size(task, shape) // parts), rank, ranks)

    def val_loader(self, batches: FixedBatches) -> KeyedLoader:
        """The validation set, the same at each pass."""
        return self._loader(self.val_sources(), batches, self.workers)


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
