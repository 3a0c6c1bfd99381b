"""How large a recipe's cache will be, from shapes and captions alone: nothing is encoded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch

from t2x_core.cache.shard import entry_bytes
from t2x_core.cache.source import CachedSource, latent_record
from t2x_core.cache.storage import StorageType
from t2x_core.cache.text import text_records
from t2x_core.data.mixture import MixedData
from t2x_core.interfaces import Source, TextEncoder
from t2x_core.module import T2XModule
from t2x_core.recipe import CacheConfig
from t2x_core.types import Bucket, SampleKey, TextTokens

LOOKED_AT = 20_000
"""Samples of a task whose captions are read; beyond, these stand for all."""
TOKENIZED, TEXTS = 1024, 32
"""Captions whose tokens are counted, and how many of them at once."""
TURNS = 64
"""Samples whose versions are told apart."""


@dataclass(frozen=True)
class CacheSize:
    """A cache that holds all that a recipe asks for."""

    latents: int
    texts: int | None
    """Captions × frozen text encoders; None: they are made on the fly, and cannot be listed."""
    latent_bytes: int
    text_bytes: int | None

    @property
    def bytes(self) -> int:
        return self.latent_bytes + (self.text_bytes or 0)


def cache_size(
    config: CacheConfig, module: T2XModule, data: MixedData, latents: Mapping[tuple[str, Bucket], Sequence[int]]
) -> CacheSize | None:
    """The size of the cache of a recipe; None if it has none.

    Args:
        module: without a cache of its own (an outline).
        data: checked.
        latents: task and bucket of its training samples → (C, F', H', W').
    """
    if config.folder is None:
        return None
    train, held_out = data.train_sources(), data.val_sources()
    number = nbytes = 0
    for (task, bucket), shape in latents.items() if config.latents else ():
        index = list(train[task].buckets()).index(bucket)
        sample, empty = train[task][SampleKey(task, index, 0, 0, 0)], torch.zeros(*shape)
        controls = dict.fromkeys(module.tasks[task].encoded_controls, empty)
        one = entry_bytes(latent_record(sample, empty, controls, config.dtype))
        there = round(bucket.count * _versions(train[task], task, index, config.variants or 1))
        there += sum(other.count for other in held_out[task].buckets() if replace(other, count=bucket.count) == bucket)
        number, nbytes = number + there, nbytes + there * one
    if not config.text or not module.frozen_encoders:
        return CacheSize(number, 0, nbytes, 0)
    captions = _captions([*train.items(), *held_out.items()])
    if captions is None:
        return CacheSize(number, None, nbytes, None)
    some, total = captions
    encoders = [encoder.part for encoder in module.frozen_encoders.values()]
    each = [_text_bytes(encoder, some, config.text_dtype or config.dtype) for encoder in encoders]
    return CacheSize(number, total * len(encoders), nbytes, round(sum(each) * total))


def _versions(source: Source, task: str, bucket: int, variants: int) -> float:
    """Different versions of a sample that are kept, on average: random choices may be the same."""
    if variants == 1:
        return 1.0
    versions = CachedSource(source, None, variants, source.seed)
    keys = [SampleKey(task, bucket, id, 0, 0) for id in range(min(TURNS, source.buckets()[bucket].count))]
    different = [len({versions.variant(key, number).choices for number in range(variants)}) for key in keys]
    return sum(different) / len(different)


def _captions(sources: Iterable[tuple[str, Source]]) -> tuple[list[str], int] | None:
    """Different captions, and about how many there are in all; None: they cannot be listed."""
    found, total = {"": None}, 1  # guidance needs the empty one
    for task, source in sources:
        every = max(1, len(source) // LOOKED_AT)
        buckets = enumerate(source.buckets())
        keys = (SampleKey(task, index, id, 0, 0) for index, bucket in buckets for id in range(bucket.count))
        before = len(found)
        for key in islice(keys, 0, None, every):
            captions = source.captions(key)
            if captions is None:
                return None
            found.update(dict.fromkeys(captions))
        total += (len(found) - before) * every
    return list(found), total


def _text_bytes(encoder: TextEncoder, captions: Sequence[str], dtype: StorageType) -> float:
    """Of a caption, on average."""
    sizes = []
    for start in range(0, min(len(captions), TOKENIZED), TEXTS):
        mask = encoder.tokenize(captions[start : start + TEXTS]).mask
        tokens = torch.zeros(*mask.shape, encoder.dims.tokens)
        pooled = torch.zeros(len(mask), encoder.dims.pooled) if encoder.dims.pooled else None
        sizes += [entry_bytes(record) for record in text_records(TextTokens(tokens, mask, pooled), dtype)]
    return sum(sizes) / len(sizes)
