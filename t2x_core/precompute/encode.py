"""Encodes what a plan wants and the store has not, batch by batch."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from t2x_core.cache.shard import entry_bytes
from t2x_core.cache.source import latent_record
from t2x_core.cache.text import text_records
from t2x_core.data.loader import end_by_kill
from t2x_core.data.text import Tokenizer
from t2x_core.errors import UnreadableError, UserError
from t2x_core.frozen import tokens_of
from t2x_core.interfaces import Task
from t2x_core.module import T2XModule
from t2x_core.precompute.plan import WantedLatents
from t2x_core.progress import Progress
from t2x_core.signals import leave_signals_to_the_main_process
from t2x_core.types import Sample

BATCH, TEXTS = 8, 32
"""Samples, and texts, that are encoded at once."""
Add = Callable[[bytes, Mapping[str, Tensor]], None]


class _Reading(Dataset[Any]):
    """Batches of samples of one task and shape: [(key, sample)], without those that cannot be read."""

    def __init__(self, batches: Sequence[Sequence[tuple[bytes, WantedLatents]]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[tuple[bytes, Sample]] | UserError:
        found = []
        for key, wanted in self.batches[index]:
            try:
                found.append((key, wanted.source.source.load(wanted.variation)))
            except UnreadableError:
                continue
            except UserError as error:
                return error
        return found


def _as_read(found: Any) -> Any:
    """Nothing is collated; a function of the module, since one without a name does not go to spawned processes."""
    return found


def encode_latents(
    module: T2XModule, wanted: Mapping[bytes, WantedLatents], add: Add, device: torch.device, workers: int
) -> Iterator[int]:
    """Encodes samples, and hands them to `add`; yields how many it has dealt with, batch by batch."""
    by_shape: dict[tuple[str, int], list[tuple[bytes, WantedLatents]]] = defaultdict(list)
    for key, one in wanted.items():
        by_shape[one.variation.key.task, one.variation.key.bucket].append((key, one))
    batches = [members[i : i + BATCH] for members in by_shape.values() for i in range(0, len(members), BATCH)]
    loader = iter(
        DataLoader(
            _Reading(batches),
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_read,
            worker_init_fn=leave_signals_to_the_main_process,
        )
    )
    end_by_kill(getattr(loader, "_workers", ()))
    for batch, found in zip(batches, loader, strict=True):
        if isinstance(found, UserError):
            raise found
        if found:
            task = module.tasks[batch[0][1].variation.key.task]
            with module.calls("codec", "encode"):
                _encode(module, task, batch[0][1], found, add, device)
        yield len(batch)


def _encode(
    module: T2XModule,
    task: Task[Any],
    one: WantedLatents,
    found: Sequence[tuple[bytes, Sample]],
    add: Add,
    device: torch.device,
) -> None:
    def coded(pixels: Sequence[Tensor | None]) -> Tensor:
        there = [part for part in pixels if part is not None]
        return module.codec.encode(torch.stack(there).to(device), task.separate_frames).cpu()

    samples = [sample for _, sample in found]
    latents = coded([sample.pixels for sample in samples])
    controls = {name: coded([s.controls[name] for s in samples]) for name in task.encoded_controls}
    cache = one.source.latents
    assert cache is not None
    for i, (key, sample) in enumerate(found):
        try:
            record = latent_record(sample, latents[i], {name: c[i] for name, c in controls.items()}, cache.dtype)
        except UserError as error:
            name = one.source.name(sample.key) or f"sample {sample.key.id} of {sample.key.task}"
            raise UserError(f"{name}: {error.message}", hint=error.hint or "try another dtype of the codec") from error
        add(key, record)


@torch.no_grad()
def encode_text(
    module: T2XModule, wanted: Mapping[bytes, tuple[str, str]], add: Add, device: torch.device
) -> Iterator[int]:
    """Encodes captions, those of similar length together, and hands them to `add`; yields how many, batch by batch."""
    assert module.cache is not None
    assert module.cache.text is not None
    for name in dict.fromkeys(encoder for encoder, _ in wanted.values()):
        members = sorted(((key, text) for key, (encoder, text) in wanted.items() if encoder == name), key=_length)
        frozen = module.frozen_encoders[name]
        tokenizer = Tokenizer({name: frozen.part}, module.calls)
        for start in range(0, len(members), TEXTS):
            batch = members[start : start + TEXTS]
            inputs = tokenizer.short([text for _, text in batch])[name]
            with module.calls(f"text_encoders.{name}", "forward"):
                tokens = tokens_of(frozen, inputs, device)
            for (key, _), record in zip(batch, text_records(tokens, module.cache.text.dtype), strict=True):
                add(key, record)
            yield len(batch)


def _length(member: tuple[bytes, str]) -> tuple[int, str]:
    return len(member[1]), member[1]


def run(steps: Iterator[int], progress: Progress) -> None:
    """Does all steps."""
    for count in steps:
        progress.add(count)


def sample_cost(steps: Callable[[Add], Iterator[int]], entries: int) -> tuple[float, float]:
    """Seconds and bytes of one entry, from a few that are encoded and not kept; the first batch warms up."""
    sizes: list[int] = []

    def count(key: bytes, record: Mapping[str, Tensor]) -> None:
        sizes.append(entry_bytes(record))

    seconds, done, warm = 0.0, 0, False
    began = time.monotonic()
    for number in steps(count):
        now = time.monotonic()
        if warm or entries <= BATCH:
            seconds, done = seconds + now - began, done + number
        began, warm = now, True
    return seconds / max(1, done), sum(sizes) / max(1, len(sizes))
