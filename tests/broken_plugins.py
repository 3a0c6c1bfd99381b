"""Plugins that are each broken in one way: what is exchanged, which check finds it, and what is said."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.package_path import add_package

PROJECT = """
[project]
name = "their"
version = "1.0"
[project.entry-points.t2x]
broken = "broken.plugin"
[project.entry-points."t2x.settings"]
broken = "broken.config:BrokenConfig"
"""
CONFIG = '''
from dataclasses import dataclass
from t2x_core.recipe import CodecConfig, TaskConfig

@dataclass(frozen=True, kw_only=True)
class BrokenConfig(TaskConfig):
    """Settings."""
    size: int = 16
    """Height and width, in pixels."""

    def sizes(self):
        return {"size": (self.size, self.size)}
'''
TASK = """
from dataclasses import replace
from functools import partial
import torch
from torch import nn
from broken.config import BrokenConfig
from t2x_core import keyed
from t2x_core.data import MadeData, stack
from t2x_core.data.made import MadeSource
from t2x_core.interfaces import Component, ConditioningAdapter, Task
from t2x_core.losses import velocity_error
from t2x_core.plugins import hookimpl
from t2x_core.types import Conditioning, ConditioningDims

def make(seed, split, number):
    random = keyed.generator(seed, "noise", split, number)
    pixels = 2 * torch.rand(3, 1, 16, 16, generator=random) - 1
    return pixels, "noise", {"label": torch.tensor(number % 4)}

class BrokenSource(MadeSource):
    def collate(self, samples):
        return stack(samples)

class BrokenData(MadeData):
    def train_source(self):
        return BrokenSource(self.make, "train", self.count)

class Labels(ConditioningAdapter):
    def __init__(self):
        super().__init__()
        self.dims = ConditioningDims(vector=32, frames=3)
        self.table = nn.Embedding(5, 32)
        self.turn = nn.Linear(32, 3)

    def forward(self, batch, text, latent_shape):
        vector = self.table(batch.extra["label"])
        return Conditioning(vector=vector, frames=self.turn(vector)[:, None])

    def null(self, conditioning):
        vector = self.table.weight[-1].expand_as(conditioning.vector)
        return Conditioning(vector=vector, frames=self.turn(vector)[:, None])

class Broken(Task):
    def data_module(self, context):
        return BrokenData(partial(make, context.seed))

    def adapter(self, context):
        return Labels()

    def loss(self):
        return velocity_error

    def conditions(self, prompts):
        return replace(super().conditions(prompts), extra={"label": torch.zeros(len(prompts), dtype=torch.long)})

@hookimpl
def t2x_register():
    return [Component("broken", BrokenConfig, Broken)]
"""
RECIPE = """
base: _base_/cpu
tasks: {broken: {}}
backbone: {width: 32, depth: 1, heads: 2, patch_size: 4, attention: fused}
codec: {name: identity}
diffusion: {sampler: {steps: 1}}
trainer: {max_steps: 2, global_batch: 4, workers: 0}
"""


class Break(NamedTuple):
    """One way of being broken."""

    old: str
    new: str
    check: str
    """The check that says it."""
    says: str
    """A pattern of what it says."""
    line: str
    """What stands in the line that it names."""
    fit: str = ""
    """A pattern of what `t2x fit` says, if it is another."""
    settings: tuple[str, ...] = ()
    """Of the recipe, for `t2x fit`."""


BREAKS = {
    "a width that dims does not say": Break(
        "nn.Embedding(5, 32)\n        self.turn = nn.Linear(32, 3)",
        "nn.Embedding(5, 24)\n        self.turn = nn.Linear(24, 3)",
        "test_its_conditioning_is_as_promised",
        "adapter.forward failed.*vector is 24 wide; dims says 32",
        "def forward(self",
    ),
    "a conditioning of another batch": Break(
        "frames=self.turn(vector)[:, None])\n\n    def null",
        "frames=self.turn(vector)[:1, None])\n\n    def null",
        "test_its_conditioning_is_as_promised",
        r"adapter.forward failed.*frames is \(1, 1, 3\).*of a batch of 4",
        "def forward(self",
    ),
    "data that differ for one key": Break(
        ", generator=random) - 1",
        ") - 1",
        "test_the_same_key_gives_the_same_sample",
        "pixels of a sample differs when it is read again, for the same key; .*keyed.generator",
        "def make(",
        fit="reading failed on sample .*the same key gives another pixels the second time.*keyed.generator",
    ),
    "not to be pickled": Break(
        "partial(make, context.seed)",
        "lambda split, number: make(context.seed, split, number)",
        "test_its_sources_pickle",
        "train_source failed.*it cannot be pickled.*functools.partial",
        "lambda split",
    ),
    "a part that null forgets": Break(
        "expand_as(conditioning.vector)\n        return Conditioning(vector=vector, frames=self.turn(vector)[:, None])",
        "expand_as(conditioning.vector)\n        return Conditioning(vector=vector)",
        "test_its_conditioning_is_as_promised",
        "adapter.null failed.*null leaves out frames, which forward returns",
        "def null(self",
    ),
    "one loss for all samples": Break(
        "return velocity_error",
        "return lambda velocity, noised, batch: (velocity - noised.velocity).square().mean()",
        "test_its_loss_in_float32",
        r"loss failed on samples.*the loss is \(\), not one value for each of 4 samples",
        "return lambda velocity",
    ),
    "a loss that is no number": Break(
        "return velocity_error",
        "return lambda velocity, noised, batch: velocity_error(velocity, noised, batch) * float('nan')",
        "test_its_loss_in_float32",
        "loss failed on samples.*the loss is NaN or infinite for all 4 samples, and the velocity is finite",
        "return lambda velocity",
    ),
    "keys that are dropped": Break(
        "return stack(samples)",
        "return replace(stack(samples), keys=())",
        "test_its_batches_are_as_promised",
        "collate failed.*the batch has not the keys that were asked for",
        "def collate(self",
    ),
    "a render of another type": Break(
        "    def loss(self):",
        "    def render(self, samples, conditions):\n        return samples\n\n    def loss(self):",
        "test_it_samples_and_renders",
        "render failed on conditions of broken.*it must return RenderedSamples, not Tensor",
        "def render(self",
    ),
    "an exception in a loader process": Break(
        "    pixels = 2 *",
        "    if split == 'train': [][number]\n    pixels = 2 *",
        "test_loader_processes_under_spawn",
        "IndexError: list index out of range",
        "[][number]",
        settings=("trainer.workers=1",),
    ),
    "types that only agree in float32": Break(
        '        vector = self.table(batch.extra["label"])\n',
        '        vector = self.table(batch.extra["label"])\n'
        "        torch.linalg.cross(self.turn(vector), vector[:, :3])\n",
        "test_its_conditioning_is_as_promised",
        "adapter.forward failed.*RuntimeError",
        "torch.linalg.cross",
        settings=("trainer.precision=bf16-mixed",),
    ),
    "a loss in bfloat16": Break(
        "return velocity_error",
        "return lambda v, noised, batch: (v.flatten(1) @ v.flatten(1).T).mean(1)",
        "test_its_loss_under_bf16",
        "loss failed.*the loss is bfloat16",
        "return lambda v",
        settings=("trainer.precision=bf16-mixed",),
    ),
}

CODEC_CONFIG = '''
from dataclasses import dataclass
from t2x_core.recipe import CodecConfig

@dataclass(frozen=True, kw_only=True)
class BrokenConfig(CodecConfig):
    """Settings."""
    name: str = "broken"
    """Name of the codec."""
    spatial_factor = 1
'''
CODEC = """
import torch
from torch import nn
from broken.config import BrokenConfig
from t2x_core.interfaces import Component, LatentCodec
from t2x_core.plugins import hookimpl

class Broken(LatentCodec):
    channels, spatial_factor = 3, 1

    def __init__(self, config):
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.norm = nn.BatchNorm3d(3, affine=False)

    def encode(self, pixels):
        return pixels

    def decode(self, latents):
        return latents

@hookimpl
def t2x_register():
    return [Component("broken", BrokenConfig, Broken)]
"""
NOT_REPEATABLE = "encode failed.*the same pixels give other latents the second time"
CODEC_BREAKS = {
    "in train mode": Break(
        "        return pixels",
        "        return self.train().dropout(pixels)",
        "test_it_is_repeatable",
        "encode gives other latents the second time",
        "def encode",
        fit="encode failed.*it is in train mode after it",
    ),
    "left in train mode": Break(
        "        return pixels",
        "        self.train()\n        return pixels",
        "test_it_stays_in_eval_mode",
        "itself is in train mode after a call",
        "def encode",
        fit="encode failed.*it is in train mode after it",
    ),
    "a sample of its distribution": Break(
        "        return pixels",
        "        return pixels + 0.1 * torch.randn_like(pixels)",
        "test_it_is_repeatable",
        "encode gives other latents the second time",
        "def encode",
        fit=NOT_REPEATABLE,
    ),
    "latents of another shape": Break(
        "        return pixels",
        "        return pixels[..., ::2, ::2]",
        "test_its_shapes",
        "encode failed.*latents are",
        "def encode",
    ),
    "latents that are too large": Break(
        "        return pixels",
        "        return 100 * pixels",
        "test_the_scale_of_its_latents",
        "latents have a standard deviation of .*; multiply latents by about 0.0",
        "def encode",
        fit="-",
    ),
    "pixels in [0, 1]": Break(
        "        return latents",
        "        return latents / 2 + 0.5",
        "test_its_round_trip",
        "pixels differ by",
        "def decode",
        fit="-",
    ),
}


def write(folder: Path, monkeypatch: pytest.MonkeyPatch, config: str, plugin: str, old: str, new: str) -> None:
    """The package of a broken plugin, on Python's path, with a recipe."""
    assert plugin.count(old) == 1, (old, plugin.count(old))
    (folder / "broken").mkdir()
    for name, text in (("__init__", ""), ("config", config), ("plugin", plugin.replace(old, new))):
        (folder / "broken" / f"{name}.py").write_text(text)
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "recipe.yaml").write_text(RECIPE)
    add_package(folder, monkeypatch)


def line_of(folder: Path, text: str) -> str:
    """ "file:line" of a text in the plugin."""
    file = folder / "broken" / "plugin.py"
    (number,) = [i for i, line in enumerate(file.read_text().splitlines(), 1) if text in line]
    return f"{file}:{number}"
