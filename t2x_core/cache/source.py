"""A source whose samples come as latents, where the cache has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from t2x_core import keyed
from t2x_core.cache.shard import Record
from t2x_core.cache.storage import StorageType, from_storage, to_storage
from t2x_core.cache.store import Store, key_of
from t2x_core.errors import UserError
from t2x_core.source import Identify, Source
from t2x_core.types import Batch, Bucket, Sample, SampleKey, Variation

VARIANT_STEP = -2
"""The step in the keys of variants: no optimizer step has it, nor has the validation set."""
LATENTS, CAPTION = "latents", "caption"
EXTRA, CONTROL, ENCODED = "extra/", "control/", "encoded/"


def caption_in(record: Record) -> str:
    """The caption that a record of latents keeps, by what `latent_record` writes."""
    return bytes(record[CAPTION].tolist()[:-1]).decode()


def latent_record(
    sample: Sample, latents: Tensor, encoded: Mapping[str, Tensor], dtype: StorageType
) -> dict[str, Tensor]:
    """What is kept of a sample with its latents (C, F', H', W') and those of its controls."""
    found = to_storage(LATENTS, latents, dtype)
    for name, control in encoded.items():
        found |= to_storage(f"{ENCODED}{name}", control, dtype)
    found |= {f"{EXTRA}{name}": value for name, value in sample.extra.items()}
    found |= {f"{CONTROL}{name}": value for name, value in sample.controls.items() if name not in encoded}
    return {**found, CAPTION: torch.frombuffer(bytearray(sample.caption.encode() + b"\0"), dtype=torch.uint8)}


@dataclass(frozen=True)
class LatentCache:
    """Where the latents of a task are kept, and what they depend on besides the sample."""

    store: Store
    codec: tuple[Any, ...]
    """Plain values that name the codec: its settings and a hash of its weights."""
    dtype: StorageType
    identify: Identify
    separate_frames: bool
    controls: tuple[str, ...]
    """Those that are encoded, too."""


class CachedSource(Source):
    """A source, in versions of a fixed number if that is wanted, with latents in place of pixels where there are some.

    Args:
        source: of pixels.
        latents: where latents are kept; None: they are not.
        variants: versions of each sample; None: as many as there are turns.
        seed: the recipe's.
    """

    def __init__(self, source: Source, latents: LatentCache | None, variants: int | None, seed: int) -> None:
        self.source, self.latents, self.variants, self.recipe_seed = source, latents, variants, seed
        self.seed = source.seed

    def buckets(self) -> Sequence[Bucket]:
        return self.source.buckets()

    def __len__(self) -> int:
        return len(self.source)

    def vary(self, key: SampleKey) -> Variation:
        own = self.source.vary(key)
        if self.variants is None:
            return own
        number = keyed.digest(self.recipe_seed, "variant", key.attempt, key.step, key.slot) % self.variants
        return replace(own, choices=self.variant(key, number).choices)

    def variant(self, key: SampleKey, number: int) -> Variation:
        """Version `number` of the sample of a key. It stays the same when other samples are added."""
        name = self.source.name(key) or f"{key.bucket}/{key.id}"
        slot = keyed.digest(self.recipe_seed, "slot of variant", name, number) >> 1
        return self.source.vary(key._replace(step=VARIANT_STEP, slot=slot, attempt=0))

    def load(self, variation: Variation) -> Sample:
        record = self.find(variation)
        return self.source.load(variation) if record is None else self._sample(variation, record)

    def find(self, variation: Variation) -> Record | None:
        """What the cache has of it."""
        address = self.address(variation)
        return None if address is None or self.latents is None else self.latents.store.get(address)

    def address(self, variation: Variation) -> bytes | None:
        """The key of a sample's latents; None if they are not kept, or its file is not there."""
        cache = self.latents
        if cache is None:
            return None
        try:
            found = self.source.fingerprint(variation, cache.identify)
        except OSError:
            return None  # `load` says what is wrong with it
        if found is None:
            return None
        made_of = (found, variation.choices, cache.separate_frames, sorted(cache.controls))
        return key_of("latents", made_of, cache.codec, cache.dtype)

    def _sample(self, variation: Variation, record: Record) -> Sample:
        bucket = self.source.buckets()[variation.key.bucket]

        def below(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in record.items() if name.startswith(prefix)}

        encoded = [name for name in below(ENCODED) if not name.endswith(".scale")]
        caption = variation.caption
        return Sample(
            variation.key,
            None,
            caption_in(record) if caption is None else caption,
            below(EXTRA),
            below(CONTROL),
            from_storage(LATENTS, record),
            {name: from_storage(f"{ENCODED}{name}", record) for name in encoded},
            (bucket.frames, bucket.height, bucket.width),
        )

    def fingerprint(self, variation: Variation, identify: Identify) -> tuple[Any, ...] | None:
        return self.source.fingerprint(variation, identify)

    def captions(self, key: SampleKey) -> Sequence[str] | None:
        return self.source.captions(key)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return self.source.collate(samples)

    def name(self, key: SampleKey) -> str:
        return self.source.name(key)

    def check(self, task: str) -> None:
        """UserError if the latents of this source cannot be kept."""
        filled = [i for i, bucket in enumerate(self.buckets()) if bucket.count]
        if self.latents is None or not filled:
            return
        turns = [self.source.vary(SampleKey(task, filled[0], 0, step, step)) for step in range(64)]
        try:
            known = self.source.fingerprint(turns[0], self.latents.identify) is not None
        except OSError:
            known = True
        if not known:
            raise UserError(
                f"latents of {task} cannot be kept: its source does not say what they depend on (`fingerprint`)",
                key="latents",
                hint="write latents: false",
            )
        if self.variants is None and len({turn.choices for turn in turns}) > 1:
            raise UserError(
                f"samples of {task} are cropped, flipped or cut at random: it must be said how many versions are kept",
                key="variants",
                hint="write variants: 4, say, or make them the same each time",
            )
