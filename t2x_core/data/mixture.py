"""The data module that the Trainer sees: one keyed batch sampler over the sources of all tasks, one or several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from t2x_core.data.order import MicroBatches, SampleOrder
from t2x_core.errors import UserError
from t2x_core.interfaces import Source, TaskDataModule
from t2x_core.types import Batch, Sample, SampleKey

VAL_STEP = -1
"""The step in the keys of validation samples: no optimizer step has it, so their noise is theirs alone."""


class KeyedDataset(Dataset[Sample]):
    """The sources of all tasks, read by key."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources = dict(sources)

    def __getitem__(self, key: SampleKey) -> Sample:
        return self.sources[key.task][key]

    def collate(self, samples: list[Sample]) -> Batch:
        """Samples of one task → its batch."""
        return self.sources[samples[0].key.task].collate(samples)


class FixedBatches:
    """Batch sampler of the validation set: every sample once, a batch from one bucket, shared out over the ranks."""

    def __init__(self, sources: Mapping[str, Source], size: int, rank: int, ranks: int) -> None:
        keys: list[list[SampleKey]] = []
        slot = 0
        for task, source in sources.items():
            for bucket, shape in enumerate(source.buckets()):
                for start in range(0, shape.count, size):
                    ids = range(start, min(start + size, shape.count))
                    keys.append([SampleKey(task, bucket, id, VAL_STEP, slot + id) for id in ids])
                slot += shape.count
        self.batches: Sequence[list[SampleKey]] = keys[rank::ranks]

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
    ) -> None:
        super().__init__()
        self.modules, self.weights = dict(modules), dict(weights)
        self.seed, self.global_batch, self.accumulation = seed, global_batch, accumulation
        self.max_steps, self.workers = max_steps, workers

    def check(self) -> None:
        """Prepares the data as training would, so that a mistake in it shows before there is a run: as a UserError."""
        self.prepare_data()
        self.setup("fit")

    def describe(self) -> list[str]:
        """Lines on the data."""
        return []

    def prepare_data(self) -> None:
        for module in self.modules.values():
            module.prepare_data()

    def setup(self, stage: str) -> None:
        for module in self.modules.values():
            module.setup(stage)

    def teardown(self, stage: str) -> None:
        for module in self.modules.values():
            module.teardown(stage)

    def train_dataloader(self) -> DataLoader[Sample]:
        trainer = self.trainer
        assert trainer is not None
        return self.train_loader(trainer.global_rank, trainer.world_size, lambda: trainer.global_step)

    def train_loader(self, rank: int, ranks: int, first_step: Callable[[], int]) -> DataLoader[Sample]:
        """The training batches of one rank, from the optimizer step that `first_step` returns when it is iterated."""
        sources = {name: module.train_source() for name, module in self.modules.items()}
        for name, source in sources.items():
            if not len(source):
                raise UserError(f'task "{name}" has no training samples')
        order = SampleOrder(
            self.seed, {name: (self.weights[name], s.buckets()) for name, s in sources.items()}, self.global_batch
        )
        batches = MicroBatches(
            order,
            steps=self.max_steps,
            accumulation=self.accumulation,
            rank=rank,
            ranks=ranks,
            first_step=first_step,
        )
        return self._loader(sources, batches)

    def val_dataloader(self) -> DataLoader[Sample]:
        assert self.trainer is not None
        sources = {name: module.val_source() for name, module in self.modules.items()}
        size = self.global_batch // (self.accumulation * self.trainer.world_size)
        return self._loader(sources, FixedBatches(sources, size, self.trainer.global_rank, self.trainer.world_size))

    def _loader(self, sources: Mapping[str, Source], batches: Any) -> DataLoader[Sample]:
        dataset = KeyedDataset(sources)
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=dataset.collate,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
        )
