"""The cache of a recipe: its folder, what is kept there, and what of the parts that made it is known without them."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from t2x_core.cache.identity import IDENTITIES
from t2x_core.cache.source import CachedSource, LatentCache
from t2x_core.cache.store import Store, key_of
from t2x_core.cache.text import TextCache
from t2x_core.errors import UserError
from t2x_core.plain_files import read_json, write_whole
from t2x_core.recipe import CacheConfig, ComponentConfig, to_plain
from t2x_core.source import Source
from t2x_core.types import TextDims

log = logging.getLogger("t2x")
PARTS = "parts"
"""Folder of what is known of text encoders, by their settings and the state of their files."""


class KnownEncoder(NamedTuple):
    """What is known of a frozen text encoder that was loaded before."""

    origin: str
    sha256: str
    tokens: int
    pooled: int
    longest: int | None

    @property
    def dims(self) -> TextDims:
        return TextDims(self.tokens, self.pooled)


class Cache:
    """What `T2XModule` and the loaders ask. It pickles."""

    def __init__(self, config: CacheConfig) -> None:
        self.config = config
        self.store = None if config.folder is None else Store(_folder(config.folder))
        self.text = None
        if self.store is not None and config.text:
            self.text = TextCache(self.store, config.text_dtype or config.dtype)
        self.codec: tuple[Any, ...] = ()
        """Plain values that name the codec (`identity_of`)."""
        self.missed: Counter[str] = Counter()
        """What was not there, and was encoded in training: "latents", and each text encoder's name → how many."""

    @property
    def latents(self) -> bool:
        """Whether latents are kept."""
        return self.store is not None and self.config.latents

    def source(self, source: Source, train: bool, seed: int, separate_frames: bool, controls: Sequence[str]) -> Source:
        """The source with latents where there are some; validation samples have no variants: their keys are fixed."""
        variants = self.config.variants if train else None
        latents = None
        if self.store is not None and self.config.latents:
            identify = IDENTITIES[self.config.identity]
            own = self.codec, self.config.dtype, identify, separate_frames, tuple(controls)
            latents = LatentCache(self.store, *own)
        return source if latents is None and variants is None else CachedSource(source, latents, variants, seed)

    def known(self, config: ComponentConfig) -> KnownEncoder | None:
        """What is known of a text encoder, if its files are as they were."""
        file = self._note(config)
        if file is None:
            return None
        try:
            return KnownEncoder(**read_json(file))
        except (OSError, ValueError, TypeError):
            return None

    def remember(self, config: ComponentConfig, known: KnownEncoder) -> None:
        """Notes what an encoder turned out to be."""
        file = self._note(config)
        if file is None or file.is_file():
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(known._asdict()) + "\n")
        except OSError as error:
            log.info("%s cannot be written: %s", file, error.strerror)

    def _note(self, config: ComponentConfig) -> Path | None:
        files = config.weight_files()
        if self.store is None or files is None:
            return None
        state = [[file.name, *IDENTITIES["time"](str(file))] for file in sorted(files)]
        return self.store.folder / PARTS / f"{key_of(type(config).__name__, to_plain(config), state).hex()}.json"


def identity_of(config: ComponentConfig, sha256: str) -> tuple[Any, ...]:
    """Plain values that name a codec or text encoder: what it computes depends on nothing else."""
    plain = to_plain(config)
    return {key: value for key, value in plain.items() if key not in config.neutral_keys()}, sha256


def _folder(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is not a folder", key="folder")
    return path
