"""A plugin in a small recipe on the CPU, as the checks see it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from t2x_core.assembly import Assembly, assemble, build_data, build_module
from t2x_core.calls import Calls
from t2x_core.data.loader import KeyedDataset, Reading
from t2x_core.data.mixture import MixedData
from t2x_core.entry_points import Plugin, definition, find, installed
from t2x_core.errors import UserError
from t2x_core.frozen import Codec
from t2x_core.interfaces import Component, Source, Task, TextEncoder
from t2x_core.module import T2XModule
from t2x_core.plugins import Registry
from t2x_core.recipe import Composed, Kind, SourcedTaskConfig, Written, check_block, composed_of
from t2x_core.types import Batch, SampleKey

SAMPLES = 4
"""Of a batch."""
WIDEST = 16
"""Most tokens along a side of a sample, where a patch that makes it so many fits."""


def small_recipe(patch_size: int) -> dict[str, Any]:
    """A recipe without tasks: a network that takes a step in a moment."""
    encoder = {"dim": 32, "depth": 1, "heads": 2}
    return {
        "backbone": {"width": 32, "depth": 2, "heads": 2, "patch_size": patch_size, "attention": "fused"},
        "codec": {"name": "identity"},
        "text_encoders": {"bytes": encoder},
        "diffusion": {"condition_dropout": 0.5, "sampler": {"name": "euler", "steps": 2, "guidance": 2.0}},
        "optimizer": {"lr": 1e-3, "warmup_steps": 1, "schedule": "constant"},
        "trainer": {
            **{"max_steps": 4, "global_batch": SAMPLES, "workers": 0, "accelerator": "cpu", "precision": "32-true"},
        },
        "logging": {
            **{"log_every": 1, "validate_every": 100, "sample_every": 0, "samples": 2, "score_samples": 0},
            **{"final_score_samples": 2, "checkpoint_every": 2, "checkpoint_minutes": None, "keep_checkpoints": 9},
        },
    }


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings merge, anything else replaces."""
    both = {name: merged(base[name], over[name]) for name in base.keys() & over.keys() if _maps(base[name], over[name])}
    return {**base, **over, **both}


def _maps(*values: Any) -> bool:
    return all(isinstance(value, Mapping) for value in values)


class Rig:
    """One plugin, and what is built of it; each part is made when it is first asked for.

    Args:
        kind, name: of the plugin.
        settings: its block of the recipe.
        recipe: blocks of the recipe that differ from `small_recipe`.
        overrides: "key=value", below its block, as from a command line.
    """

    def __init__(
        self,
        kind: Kind,
        name: str,
        settings: Mapping[str, Any],
        recipe: Mapping[str, Any],
        overrides: Sequence[str] = (),
    ) -> None:
        self.kind, self.name, self.settings, self.recipe, self.overrides = kind, name, settings, recipe, overrides
        self.registry = Registry()
        self.plugin: Plugin = find(kind, name)
        self.path = self._path()
        self.calls = Calls({self.path: self.plugin})

    def _path(self) -> str:
        """Of what is checked, in the recipe."""
        match self.kind:
            case "task":
                return f"tasks.{self.name}"
            case "source":
                return f"tasks.{_task_for(self.plugin, self.schema)}.data"
            case "codec":
                return "codec"
            case "text_encoder":
                return f"text_encoders.{self.name}"

    def refuse(self, problem: str, hint: str, code: Any = None) -> UserError:
        """The UserError that names the package, and the place where `code` (a function or a class) is defined."""
        return self.plugin.refuse(problem, hint, definition(code, self.plugin.point.module))

    @property
    def block(self) -> str:
        """Path of its settings in the recipe."""
        return f"{self.path}.{self.name}" if self.kind == "source" else self.path

    @cached_property
    def component(self) -> Component:
        return self.registry.component(self.kind, self.name)

    @cached_property
    def schema(self) -> type:
        """The class of its settings."""
        return self.registry.schema(self.kind, self.name)

    def composed(self, patch_size: int, more: Mapping[str, Any] | None = None) -> Composed:
        """The recipe; `more`: blocks on top."""
        own: dict[str, Any] = {str(k): v for k, v in self.settings.items()}
        if self.kind == "codec":
            own["name"] = self.name
        for key in reversed(self.block.split(".")):
            own = {key: own}
        found = composed_of(merged(merged(small_recipe(patch_size), own), merged(self.recipe, more or {})))
        written = (text.partition("=") for text in self.overrides)
        return found.with_values({f"{self.block}.{key.strip()}": Written(value) for key, _, value in written})

    @cached_property
    def config(self) -> Any:
        """Its settings."""
        composed = self.composed(1)
        block = composed.find(self.block)
        assert block is not None
        with composed.error_location(""):
            return check_block(self.schema, block, self.block, self.registry.schema)

    @cached_property
    def patch_size(self) -> int:
        """One that the sizes of the task divide by, with few tokens."""
        sides = [side for size in self.config.sizes().values() for side in size]
        fitting = [p for p in (1, 2, 4, 8, 16, 32, 64) if all(side % p == 0 for side in sides)]
        if not sides:
            return 4
        return next((p for p in fitting if max(sides) // p <= WIDEST), fitting[-1])

    def assembly(self, **more: Any) -> Assembly:
        """A recipe with the task; `more`: blocks on top."""
        return assemble(self.composed(self.patch_size, more), self.registry)

    @cached_property
    def assembled(self) -> Assembly:
        return self.assembly()

    @property
    def task(self) -> Task[Any]:
        return self.assembled.task()

    @cached_property
    def module(self) -> T2XModule:
        """In train mode, with the weights that a seed gives."""
        return build_module(self.assembled)

    @cached_property
    def data(self) -> MixedData:
        """Prepared and set up."""
        data = build_data(self.assembled, self.module)
        data.check()
        return data

    def source(self, split: str) -> Source:
        """Its samples; `split`: train or val."""
        module = self.data.modules[self.task.name]
        with self.calls(self.path, f"{split}_source"):
            return module.train_source() if split == "train" else module.val_source()

    def keys(self, source: Source, count: int = SAMPLES) -> list[SampleKey]:
        """Keys of a batch of the first bucket that has samples."""
        bucket, there = next((i, b.count) for i, b in enumerate(source.buckets()) if b.count)
        return [SampleKey(self.task.name, bucket, i % there, 0, i) for i in range(count)]

    @cached_property
    def batch(self) -> Batch:
        """Training samples, with their texts."""
        return self.read("train", self.keys(self.source("train")))

    def read(self, split: str, keys: Sequence[SampleKey]) -> Batch:
        """The batch of these keys, with its texts."""
        sources = {self.task.name: self.source(split)}
        return KeyedDataset(sources, Reading(sources, 0), self.module.tokenizer, self.calls).read(keys)

    def built(self) -> Any:
        """A new codec or text encoder, always of the same random numbers."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            with self.calls(self.path, "building it", code=self.component.build):
                return self.component.build(self.config)

    @cached_property
    def codec(self) -> Codec:
        """The codec, as the core calls it."""
        return Codec(self.built())

    @cached_property
    def encoder(self) -> TextEncoder:
        """The text encoder: it trains, or is in eval mode."""
        made: TextEncoder = self.built()
        return made if any(p.requires_grad for p in made.parameters()) else made.eval()

    @cached_property
    def folder(self) -> Path:
        """An empty folder that goes away with the process."""
        self._temporary = tempfile.TemporaryDirectory(prefix="t2x_check_")
        return Path(self._temporary.name)


def _task_for(plugin: Plugin, schema: type) -> str:
    """The installed task that asks most of its sources, of those that take such a source."""
    fitting = {}
    for other in installed():
        task = other.settings() if other.kind() == "task" else None
        if task is not None and issubclass(task, SourcedTaskConfig) and issubclass(schema, task.source_class):
            fitting[other.name] = len(task.source_class.__mro__)
    if not fitting:
        hint = "derive them from ImageSourceConfig, ClipSourceConfig, ViewSourceConfig or what another task asks for"
        raise plugin.refuse("no installed task takes a source with such settings", hint)
    return max(fitting, key=lambda name: fitting[name])


def smooth(count: int, frames: int, height: int, width: int) -> torch.Tensor:
    """Pixels (count, 3, frames, height, width) in [-1, 1]: soft stripes of all directions that move."""
    random = torch.Generator().manual_seed(0)
    y, x = torch.linspace(0, 1, height).view(-1, 1), torch.linspace(0, 1, width)
    f = torch.arange(frames).view(-1, 1, 1)
    turn, start, speed = (torch.rand(count, 3, 1, 1, 1, generator=random) * k for k in (2 * math.pi, 2 * math.pi, 0.2))
    return 0.9 * torch.sin(5 * (turn.cos() * x + turn.sin() * y) + start + speed * f)
