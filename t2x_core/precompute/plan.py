"""What training a recipe will ask the cache for: latents of all versions of all samples, and tokens of all captions.

Captions that a source can list are all taken. Others are made on the fly: those are taken that this run will read,
since the order of samples is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from t2x_core.assembly import Assembly
from t2x_core.cache.source import CachedSource, caption_in
from t2x_core.data.mixture import MixedData
from t2x_core.errors import UnreadableError
from t2x_core.module import T2XModule
from t2x_core.source import Source
from t2x_core.types import SampleKey, Variation


@dataclass(frozen=True)
class WantedLatents:
    """Latents of one version of a sample."""

    source: CachedSource
    variation: Variation


@dataclass
class Plan:
    """What is wanted, by its key in the store."""

    latents: dict[bytes, WantedLatents] = field(default_factory=dict)
    text: dict[bytes, tuple[str, str]] = field(default_factory=dict)
    """Encoder's name in the recipe, and the caption."""

    @property
    def keys(self) -> set[bytes]:
        return {*self.latents, *self.text}


def make_plan(assembly: Assembly, module: T2XModule, data: MixedData) -> Plan:
    """The plan of a recipe; `data` is checked (`MixedData.check`)."""
    plan, cache = Plan(), module.cache
    assert cache is not None
    train, val = data.train_sources(), data.val_sources()
    val_keys = [key for batch in data.val_batches(0, 1) for key in batch]
    if cache.latents:
        for task, source in train.items():
            _add_latents(plan, source, _samples(task, source))
        for key in val_keys:
            source = val[key.task]
            assert isinstance(source, CachedSource)
            _add(plan, source, source.vary(key))
    if cache.text is not None:
        captions = dict.fromkeys(_captions(assembly, data, train, val, val_keys))
        for name in cache.text.encoders:
            plan.text |= {cache.text.key(name, caption): (name, caption) for caption in captions}
    return plan


def _samples(task: str, source: Source) -> Iterator[SampleKey]:
    """Each sample once."""
    for index, bucket in enumerate(source.buckets()):
        for id in range(bucket.count):
            yield SampleKey(task, index, id, 0, 0)


def _add_latents(plan: Plan, source: Source, keys: Iterator[SampleKey]) -> None:
    assert isinstance(source, CachedSource)
    for key in keys:
        if source.variants is None:
            _add(plan, source, source.vary(key))
            continue
        for number in range(source.variants):
            _add(plan, source, source.variant(key, number))


def _add(plan: Plan, source: CachedSource, variation: Variation) -> None:
    address = source.address(variation)
    if address is not None:  # else its file is gone
        plan.latents[address] = WantedLatents(source, variation)


def _captions(
    assembly: Assembly,
    data: MixedData,
    train: dict[str, Source],
    val: dict[str, Source],
    val_keys: list[SampleKey],
) -> Iterator[str]:
    """Captions of training, of validation and of the samples made meanwhile; and the empty one, of guidance."""
    yield ""
    config = assembly.recipe.logging
    count = max(config.samples, config.score_samples, config.final_score_samples)
    for task in train:
        yield from data.val_conditions(task, max(1, count)).captions
    unlisted = set()
    for task, source in train.items():
        for key in _samples(task, source):
            listed = source.captions(key)
            if listed is None:
                unlisted.add(task)
                break
            yield from listed
    if unlisted:
        order = data.order(train)
        for step in range(data.max_steps):
            keys = order.keys(step)
            if keys[0].task in unlisted:
                yield from (caption_of(train[key.task], key) for key in keys)
    yield from (caption_of(val[key.task], key) for key in val_keys)


def caption_of(source: Source, key: SampleKey) -> str:
    """The caption of a sample in its turn; loads it if nothing else says it."""
    variation = source.vary(key)
    if variation.caption is not None:
        return variation.caption
    record = source.find(variation) if isinstance(source, CachedSource) else None
    if record is not None:
        return caption_in(record)
    try:
        return source.load(variation).caption
    except UnreadableError:
        return ""
