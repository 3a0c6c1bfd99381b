"""Recipe → module and data: the only place where parts are wired together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from t2x_core.backbone import PRESETS, PTDiT, PTDiTConfig
from t2x_core.data.mixture import MixedData
from t2x_core.data.order import BatchSize
from t2x_core.errors import UserError
from t2x_core.interfaces import (
    Component,
    ConditioningAdapter,
    DataContext,
    LatentCodec,
    TaskDataModule,
    TaskPlugin,
    TextEncoder,
)
from t2x_core.module import T2XModule
from t2x_core.optim import freeze
from t2x_core.plugins import Registry
from t2x_core.quarantine import Quarantine
from t2x_core.recipe import Composed, Recipe, TaskConfig, check_recipe, compose
from t2x_core.types import Bucket, ConditioningDims


@dataclass(frozen=True)
class Assembly:
    """A recipe together with the plugins that it names."""

    recipe: Recipe
    registry: Registry
    composed: Composed
    """Knows where each setting was written."""

    def task(self, name: str | None = None) -> tuple[TaskPlugin[Any], TaskConfig]:
        """A task's plugin and its block of the recipe; without a name, the only one there is."""
        names = list(self.recipe.tasks)
        if name is None:
            if len(names) > 1:
                known = ", ".join(names)
                raise UserError("the model was trained on several tasks", hint=f"choose one of them (--task): {known}")
            name = names[0]
        if name not in names:
            raise UserError(f'the model was not trained on "{name}"', hint=f"its tasks: {', '.join(names)}")
        return self.registry.task(name), self.recipe.tasks[name]

    def asking(self, task: str | None, sampling: Mapping[str, Any]) -> Assembly:
        """The same, with other values of keys of a task's block `sampling`; UserError if there are none such."""
        if not sampling:
            return self
        name = self.task(task)[0].name
        composed = self.composed.with_values({f"tasks.{name}.sampling.{k}": v for k, v in sampling.items()})
        checked = check_recipe(composed, self.registry.schema)
        assert checked is not None  # the registry knows every schema
        return Assembly(checked, self.registry, composed)

    def component(self, kind: Literal["codec", "text_encoder"]) -> Component:
        """The codec or the text encoder that the recipe names."""
        block = self.recipe.codec if kind == "codec" else self.recipe.text_encoder
        assert block is not None
        return self.registry.component(kind, block.name)


def load_assembly(recipe: str, overrides: Sequence[str]) -> Assembly:
    """A recipe, by name or path, read and checked; UserError with file and line if something is wrong with it."""
    registry, composed = Registry(), compose(recipe, overrides)
    checked = check_recipe(composed, registry.schema)
    assert checked is not None  # the registry knows every schema
    return Assembly(checked, registry, composed)


def build_module(assembly: Assembly) -> T2XModule:
    """The module of a recipe, with the weights that its seed gives."""
    recipe, blame = assembly.recipe, assembly.composed.blame
    adapters, losses = {}, {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        with blame("codec"):
            codec = _must_be(LatentCodec, assembly.component("codec").build(recipe.codec))
        text_encoder = None
        if recipe.text_encoder is not None:
            with blame("text_encoder"):
                text_encoder = _must_be(TextEncoder, assembly.component("text_encoder").build(recipe.text_encoder))
        text_dim = 0 if text_encoder is None else text_encoder.dim
        for name in recipe.tasks:
            plugin, config = assembly.task(name)
            with blame(f"tasks.{name}"):
                adapters[name] = _must_be(ConditioningAdapter, plugin.adapter(config, text_dim))
                losses[name] = plugin.loss(config)
        with blame("backbone"):
            backbone = PTDiT(backbone_config(recipe, codec.channels, [a.dims for a in adapters.values()]))
        module = T2XModule(
            backbone,
            codec,
            text_encoder,
            adapters,
            losses,
            separate_frames=[name for name in recipe.tasks if assembly.registry.task(name).separate_frames],
            diffusion=recipe.diffusion,
            optimizer=recipe.optimizer,
            max_steps=recipe.trainer.max_steps,
            seed=recipe.seed,
        )
    with blame("optimizer"):
        module.frozen = freeze(module.trainable(), recipe.optimizer.freeze)
    return module


def backbone_config(recipe: Recipe, channels: int, dims: Sequence[ConditioningDims]) -> PTDiTConfig:
    """The backbone's configuration: preset, what the recipe says instead, room for every task's conditioning."""
    block = recipe.backbone
    sizes = {"width": block.width, "depth": block.depth, "heads": block.heads}
    chosen = {**(PRESETS[block.preset] if block.preset else {}), **{k: v for k, v in sizes.items() if v is not None}}
    try:
        return PTDiTConfig(
            in_channels=channels,
            **chosen,
            patch_size=block.patch_size,
            attention=block.attention,
            window=block.window,
            mlp_ratio=block.mlp_ratio,
            qk_norm=block.qk_norm,
            position=block.position,
            giim=block.giim,
            tcm=block.tcm,
            dims=ConditioningDims(
                text=max(d.text for d in dims),
                vector=max(d.vector for d in dims),
                frames=max(d.frames for d in dims),
                concat=max(d.concat for d in dims),
            ),
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def _must_be(wanted: type, made: Any) -> Any:
    """What a plugin made, if it is of the class `wanted`."""
    if not isinstance(made, wanted):
        raise UserError(f"its plugin must make a {wanted.__name__} of this, but returns {made!r}")
    return made


def build_data(assembly: Assembly, module: T2XModule) -> MixedData:
    """The data module of a recipe: every task's own, mixed."""
    recipe = assembly.recipe
    quarantine, size = Quarantine(), batch_size(recipe, module)
    modules = {}
    for name in recipe.tasks:
        plugin, config = assembly.task(name)
        context = DataContext(
            seed=recipe.seed,
            pixel_multiple=module.codec.spatial_factor * recipe.backbone.patch_size,
            global_batch=size(name, plugin.bucket(config)),
            quarantine=quarantine,
        )
        with assembly.composed.blame(f"tasks.{name}"):
            modules[name] = _must_be(TaskDataModule, plugin.data_module(config, context))
    return MixedData(
        modules,
        {name: config.weight for name, config in recipe.tasks.items()},
        seed=recipe.seed,
        batch_size=size,
        accumulation=recipe.trainer.accumulation,
        max_steps=recipe.trainer.max_steps,
        workers=recipe.trainer.workers,
        stall_minutes=recipe.trainer.stall_minutes,
        quarantine=quarantine,
        blame=assembly.composed.blame,
    )


def batch_size(recipe: Recipe, module: T2XModule) -> BatchSize:
    """Samples of an optimizer step of each task and shape. Devices and accumulation do not come in, so that the samples
    are the same on any number of them."""
    trainer, own = recipe.trainer, {name: task.global_batch for name, task in recipe.tasks.items()}

    def of(task: str, bucket: Bucket) -> int:
        if (batch := own.get(task)) is not None:
            return batch
        if trainer.tokens_per_step is None:
            return trainer.global_batch
        cells = math.prod(module.latent_shape(bucket, task)[1:])
        tokens = trainer.batch_multiple * cells / recipe.backbone.patch_size**2
        return trainer.batch_multiple * max(1, round(trainer.tokens_per_step / tokens))

    return of
