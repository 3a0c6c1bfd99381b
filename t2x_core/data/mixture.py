"""The data module that the Trainer sees: one keyed batch sampler over the sources of all tasks, one or several."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from t2x_core.data.order import MicroBatches, SampleOrder
from t2x_core.errors import UserError
from t2x_core.interfaces import Source, TaskDataModule
from t2x_core.quarantine import Quarantine
from t2x_core.types import Batch, Sample, SampleKey

VAL_STEP = -1
"""The step in the keys of validation samples: no optimizer step has it, so their noise is theirs alone."""


class KeyedDataset(Dataset[Sample]):
    """The sources of all tasks, read by key, a batch at a time."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources = dict(sources)

    def __getitem__(self, key: SampleKey) -> Sample:
        return self.sources[key.task][key]

    def __getitems__(self, keys: Sequence[SampleKey]) -> Batch | UserError:
        """The batch of these keys, all of one task.

        A UserError is handed over: if a worker process raised it, torch would raise another in the main process, with
        a traceback for a message.
        """
        try:
            return self.sources[keys[0].task].collate([self[key] for key in keys])
        except UserError as error:
            return error


class KeyedLoader(DataLoader[Sample]):
    """Batches of a `KeyedDataset`, in the order of a batch sampler."""

    def __init__(self, dataset: KeyedDataset, batches: Any, workers: int) -> None:
        super().__init__(
            dataset,
            batch_sampler=batches,
            collate_fn=_as_it_is,  # `__getitems__` has made the batch
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_leave_signals_to_the_main_process,
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            yield batch


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_main_process(worker: int) -> None:
    """Ctrl-C and a cluster's SIGTERM reach every process: workers must outlive the last step and its checkpoint."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class FixedBatches:
    """Batch sampler of the validation set: every sample once, a batch from one bucket, shared out over the ranks.

    All ranks get the same number of batches, and the n-th is of the same task everywhere, since each forward pass of
    a sharded network is one of all ranks together. Where a task's batches do not come out even, the last one is given
    to the remaining ranks once more; `counted` says which are to be left out.
    """

    def __init__(self, sources: Mapping[str, Source], size: int, rank: int, ranks: int) -> None:
        self.batches: list[list[SampleKey]] = []
        self.counted: list[bool] = []
        """For each batch: whether it counts; no other rank has it then."""
        slot = 0
        for task, source in sources.items():
            keys: list[list[SampleKey]] = []
            for bucket, shape in enumerate(source.buckets()):
                for start in range(0, shape.count, size):
                    ids = range(start, min(start + size, shape.count))
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
        global_batch: samples of one optimizer step over all ranks and micro-batches.
        accumulation: micro-batches of one optimizer step.
        max_steps: optimizer steps of the whole run.
        workers: loader processes of each rank; 0 = load in the training process.
        quarantine: what the modules tell of files that cannot be read.
        blame: gives a UserError of the block at a path of the recipe its place there (`Composed.blame`).
    """

    def __init__(
        self,
        modules: Mapping[str, TaskDataModule],
        weights: Mapping[str, float],
        *,
        seed: int,
        global_batch: int,
        accumulation: int,
        max_steps: int,
        workers: int,
        quarantine: Quarantine | None = None,
        blame: Callable[[str], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        super().__init__()
        self.quarantine, self.blame = quarantine or Quarantine(), blame
        self.modules, self.weights = dict(modules), dict(weights)
        self.seed, self.global_batch, self.accumulation = seed, global_batch, accumulation
        self.max_steps, self.workers = max_steps, workers
        self.attempt = 0
        """Roll-backs so far: what is random about the samples is drawn anew after each."""

    def prepare_data(self) -> None:
        for name, module in self.modules.items():
            with self.blame(f"tasks.{name}"):
                module.prepare_data()

    def setup(self, stage: str) -> None:
        for name, module in self.modules.items():
            with self.blame(f"tasks.{name}"):
                module.setup(stage)
                if not len(module.train_source()):
                    raise UserError("there are no training samples")

    def check(self) -> None:
        """Finds what is wrong with the data before anything is trained or written; UserError says it.

        The Trainer calls `prepare_data` and `setup` again, when all is known.
        """
        self.prepare_data()
        self.setup("fit")

    def describe(self) -> list[str]:
        """Lines for the log on what there is to train on; after `check`."""
        several = len(self.modules) > 1
        lines = [
            f"{name}: {line}" if several else line
            for name, module in self.modules.items()
            for line in module.describe()
        ]
        return [f"{'' if i else 'data':11}{line}" for i, line in enumerate(lines)]

    def teardown(self, stage: str) -> None:
        for module in self.modules.values():
            module.teardown(stage)

    def train_dataloader(self) -> KeyedLoader:
        trainer = self.trainer
        assert trainer is not None
        return self.train_loader(trainer.global_rank, trainer.world_size, lambda: trainer.global_step)

    def train_loader(self, rank: int, ranks: int, first_step: Callable[[], int]) -> KeyedLoader:
        """The training batches of one rank, from the optimizer step that `first_step` returns when it is iterated."""
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
        return KeyedLoader(KeyedDataset(sources), batches, self.workers)

    def train_sources(self) -> dict[str, Source]:
        """Task → its training samples; after `setup`."""
        return {name: module.train_source() for name, module in self.modules.items()}

    def order(self, sources: Mapping[str, Source]) -> SampleOrder:
        """Which samples of these sources each optimizer step takes."""
        tasks = {name: (self.weights[name], source.buckets()) for name, source in sources.items()}
        return SampleOrder(self.seed, tasks, self.global_batch)

    def batch(self, step: int, attempt: int) -> Batch:
        """The global batch of optimizer step `step` (from 0), in the order of its slots; after `setup`."""
        sources = self.train_sources()
        batch = KeyedDataset(sources).__getitems__(self.order(sources).keys(step, attempt))
        if isinstance(batch, UserError):
            raise batch
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"attempt": self.attempt}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The Trainer calls this before `train_dataloader`. Attempts only count up: a roll-back's is kept."""
        self.attempt = max(self.attempt, state_dict["attempt"])

    def val_batches(self, rank: int, ranks: int) -> FixedBatches:
        """Which validation samples a rank reads, in batches of the size of a micro-batch; after `check`."""
        sources = {name: module.val_source() for name, module in self.modules.items()}
        return FixedBatches(sources, self.global_batch // (self.accumulation * ranks), rank, ranks)

    def val_loader(self, batches: FixedBatches) -> KeyedLoader:
        """The validation set, the same at each pass."""
        sources = {name: module.val_source() for name, module in self.modules.items()}
        return KeyedLoader(KeyedDataset(sources), batches, self.workers)
