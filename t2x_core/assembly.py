"""Recipe → module and data: the only place where parts are wired together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from t2x_core.backbone import PRESETS, PTDiT, PTDiTConfig
from t2x_core.data.mixture import MixedData
from t2x_core.errors import UserError
from t2x_core.interfaces import DataContext, TaskPlugin
from t2x_core.module import T2XModule
from t2x_core.plugins import Registry
from t2x_core.recipe import Recipe, TaskConfig, load_recipe
from t2x_core.types import ConditioningDims


@dataclass(frozen=True)
class Assembly:
    """A recipe together with the plugins that it names."""

    recipe: Recipe
    registry: Registry

    def task(self, name: str | None = None) -> tuple[TaskPlugin[Any], TaskConfig]:
        """A task's plugin and its block of the recipe; without a name, the only one there is."""
        names = list(self.recipe.tasks)
        if name is None:
            if len(names) > 1:
                raise UserError("the model was trained on several tasks", hint=f"choose one of {', '.join(names)}")
            name = names[0]
        if name not in names:
            raise UserError(f'the model was not trained on "{name}"', hint=f"its tasks: {', '.join(names)}")
        return self.registry.task(name), self.recipe.tasks[name]


def load_assembly(recipe: str, overrides: Sequence[str]) -> Assembly:
    """A recipe, by name or path, read and checked; UserError with file and line if something is wrong with it."""
    registry = Registry()
    loaded = load_recipe(
        recipe,
        overrides,
        task_schema=lambda name: registry.task(name).config_class,
        component_schema=lambda kind, name: registry.component(kind, name).config_class,  # type: ignore[arg-type]
    )
    return Assembly(loaded, registry)


def build_module(assembly: Assembly) -> T2XModule:
    """The module of a recipe, with the weights that its seed gives."""
    recipe, registry = assembly.recipe, assembly.registry
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        codec: Any = registry.component("codec", recipe.codec.name).build(recipe.codec)
        text_encoder: Any = None
        if recipe.text_encoder is not None:
            text_encoder = registry.component("text_encoder", recipe.text_encoder.name).build(recipe.text_encoder)
        text_dim = 0 if text_encoder is None else text_encoder.dim
        plugins = {name: registry.task(name) for name in recipe.tasks}
        adapters = {name: p.adapter(recipe.tasks[name], text_dim) for name, p in plugins.items()}
        backbone = PTDiT(backbone_config(recipe, codec.channels, [a.dims for a in adapters.values()]))
        return T2XModule(
            backbone,
            codec,
            text_encoder,
            adapters,
            {name: plugin.loss(recipe.tasks[name]) for name, plugin in plugins.items()},
            diffusion=recipe.diffusion,
            optimizer=recipe.optimizer,
            max_steps=recipe.trainer.max_steps,
            seed=recipe.seed,
        )


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
            dims=ConditioningDims(
                text=max(d.text for d in dims),
                vector=max(d.vector for d in dims),
                frames=max(d.frames for d in dims),
                concat=max(d.concat for d in dims),
            ),
        )
    except ValueError as error:
        raise UserError(f"backbone: {error}") from error


def build_data(assembly: Assembly, module: T2XModule) -> MixedData:
    """The data module of a recipe: every task's own, mixed."""
    recipe = assembly.recipe
    context = DataContext(recipe.seed, module.codec.spatial_factor * recipe.backbone.patch_size)
    tasks = {name: assembly.registry.task(name).data_module(config, context) for name, config in recipe.tasks.items()}
    return MixedData(
        tasks,
        {name: config.weight for name, config in recipe.tasks.items()},
        seed=recipe.seed,
        global_batch=recipe.trainer.global_batch,
        accumulation=recipe.trainer.accumulation,
        max_steps=recipe.trainer.max_steps,
        workers=recipe.trainer.workers,
    )
