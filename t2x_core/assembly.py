"""Recipe → module and data: the only place where parts are wired together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from t2x_core.backbone import PTDiT
from t2x_core.backbone.from_recipe import backbone_config, check_room
from t2x_core.cache.cache import Cache, KnownEncoder, identity_of
from t2x_core.cache.source import CachedSource
from t2x_core.calls import Calls
from t2x_core.data.mixture import MixedData
from t2x_core.data.order import BatchSize
from t2x_core.errors import UserError
from t2x_core.free_memory import free_memory
from t2x_core.frozen import LaterEncoder
from t2x_core.interfaces import (
    Component,
    ConditioningAdapter,
    DataContext,
    DataSource,
    LatentCodec,
    Loss,
    ModelContext,
    Source,
    SourcedTask,
    Task,
    TaskDataModule,
    TextEncoder,
    largest,
)
from t2x_core.lora.network import inject
from t2x_core.module import T2XModule
from t2x_core.optim import freeze
from t2x_core.outline import fake_mode, without_content
from t2x_core.plugins import Registry
from t2x_core.quarantine import Quarantine
from t2x_core.recipe import (
    ComponentConfig,
    Composed,
    Kind,
    Recipe,
    SourcedTaskConfig,
    check_recipe,
    compose,
)
from t2x_core.recipe.geometry import check_geometry
from t2x_core.repa import Alignment
from t2x_core.types import Bucket


@dataclass(frozen=True)
class Assembly:
    """A recipe together with the plugins that it names."""

    recipe: Recipe
    registry: Registry
    composed: Composed
    """Knows where each setting was written."""
    tasks: Mapping[str, Task[Any]]
    """Name → the task, bound to its block of the recipe."""

    def task(self, name: str | None = None) -> Task[Any]:
        """A task; without a name, the only one there is."""
        names = list(self.tasks)
        if name is None:
            if len(names) > 1:
                known = ", ".join(names)
                raise UserError("the model was trained on several tasks", hint=f"choose one of them (--task): {known}")
            name = names[0]
        if name not in names:
            raise UserError(f'the model was not trained on "{name}"', hint=f"its tasks: {', '.join(names)}")
        return self.tasks[name]

    def with_sampling(self, task: str | None, sampling: Mapping[str, Any]) -> Assembly:
        """The same, with other values of keys of a task's block `sampling`; UserError if there are none such."""
        if not sampling:
            return self
        name = self.task(task).name
        composed = self.composed.with_values({f"tasks.{name}.sampling.{k}": v for k, v in sampling.items()})
        return assemble(composed, self.registry)

    @property
    def calls(self) -> Calls:
        """Knows which plugin each part of the recipe is of."""
        return Calls({path: self.registry.owner(kind, name) for path, kind, name in _parts(self.recipe)})

    @property
    def packages(self) -> list[str]:
        """The packages that bring what the recipe names."""
        points = [owner.point for owner in self.calls.owners.values()]
        return sorted({point.dist.name for point in points if point.dist})


def _parts(recipe: Recipe) -> Iterator[tuple[str, Kind, str]]:
    """Path in the recipe, kind and registered name of everything that a plugin brings."""
    yield "codec", "codec", recipe.codec.name
    for name, encoder in recipe.text_encoders.items():
        yield f"text_encoders.{name}", "text_encoder", encoder.name or name
    for name, config in recipe.tasks.items():
        yield f"tasks.{name}", "task", name
        if isinstance(config, SourcedTaskConfig):
            yield f"tasks.{name}.data", "source", config.source_name


def load_assembly(recipe: str, overrides: Sequence[str]) -> Assembly:
    """A recipe, by name or path, read and checked; UserError with file and line if something is wrong with it."""
    return assemble(compose(recipe, overrides), Registry())


def assemble(composed: Composed, registry: Registry) -> Assembly:
    """A composed recipe, checked, with its tasks."""
    recipe = check_recipe(composed, registry.schema)
    assert recipe is not None  # the registry knows every schema
    tasks = {}
    for name, config in recipe.tasks.items():
        with composed.error_location(f"tasks.{name}"):
            tasks[name] = _bound(registry, "task", name, config, Task)
            tasks[name].name = name
        if isinstance(config, SourcedTaskConfig):
            with composed.error_location(config.data_block(name)):
                source = _bound(registry, "source", config.source_name, config.source, DataSource)
                _must_be(SourcedTask, tasks[name]).source = source
    return Assembly(recipe, registry, composed, tasks)


def _bound(registry: Registry, kind: Kind, name: str, config: Any, wanted: type) -> Any:
    """A task or a data source, bound to its settings."""
    with Calls({"": registry.owner(kind, name)})("", f"building the {kind}"):
        return _must_be(wanted, registry.component(kind, name).build(config))


def build_module(assembly: Assembly, cached: bool = True, outline: bool = False) -> T2XModule:
    """The module of a recipe, with the weights that its seed gives.

    Args:
        cached: whether it has what training alone needs: the alignment, and text from the recipe's cache. Then frozen
            encoders that were loaded before are loaded only when a text is not there.
        outline: without content (`t2x_core.outline`), the backbone and those pretrained parts that are not on this
            machine, so that what a step costs can be counted at once; without the cache.
    """
    recipe, calls, tasks = assembly.recipe, assembly.calls, assembly.tasks
    mode = fake_mode() if outline else None

    @contextmanager
    def building(path: str, method: str) -> Iterator[None]:
        with assembly.composed.error_location(path), calls(path, method):
            yield

    with assembly.composed.error_location("cache"):
        cache = Cache(recipe.cache) if cached and not outline else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        made: dict[str, Any] = {}
        for path, kind, name in _parts(recipe):
            if kind in ("task", "source"):
                continue
            config = recipe.codec if kind == "codec" else recipe.text_encoders[path.partition(".")[2]]

            def build(path: str = path, kind: Kind = kind, name: str = name, config: Any = config) -> Any:
                with building(path, "building it"):
                    part = _build(assembly.registry.component(kind, name), config, mode)
                    return _must_be(LatentCodec if kind == "codec" else TextEncoder, part)

            known = cache.known(config) if kind == "text_encoder" and cache is not None and cache.text else None
            if known is not None:
                made[path] = LaterEncoder(build, known, path.partition(".")[2])
                continue
            state = torch.get_rng_state()
            made[path] = build()
            if not any(p.requires_grad for p in made[path].parameters()):
                torch.set_rng_state(state)  # other weights must not depend on whether it is loaded
        codec = made.pop("codec")
        with assembly.composed.error_location(""):
            check_geometry(recipe, codec.spatial_factor, codec.frame_factor)
        encoders = {path.partition(".")[2]: encoder for path, encoder in made.items()}
        context = ModelContext({name: encoder.dims for name, encoder in encoders.items()}, codec.channels)
        adapters: dict[str, ConditioningAdapter] = {}
        losses: dict[str, Loss] = {}
        for name, task in tasks.items():
            with building(f"tasks.{name}", "adapter"):
                adapters[name] = _must_be(ConditioningAdapter, task.adapter(context))
            with building(f"tasks.{name}", "loss"):
                losses[name] = task.loss()
        with assembly.composed.error_location("backbone"), torch.device("meta") if mode else nullcontext():
            size = backbone_config(recipe, codec.channels, [a.dims for a in adapters.values()])
            check_room(size, free_memory() if mode is None else None)
            backbone = PTDiT(size)
        if mode is not None:
            without_content(backbone, mode)
        alignment = None
        if recipe.diffusion.repa is not None and (cached or outline):
            with assembly.composed.error_location("diffusion.repa"):
                alignment = Alignment(recipe.diffusion.repa, size.width, size.depth, untrained=outline)
        module = T2XModule(
            *(backbone, codec, encoders, tasks, adapters, losses),
            diffusion=recipe.diffusion,
            optimizer=recipe.optimizer,
            max_steps=recipe.trainer.max_steps,
            seed=recipe.seed,
            alignment=alignment,
            calls=calls,
            cache=cache,
        )
        if recipe.backbone.lora is not None:
            with assembly.composed.error_location("backbone"):
                module.base = inject(module, recipe.backbone.lora)
    with assembly.composed.error_location("optimizer"):
        freeze(module.trainable(), recipe.optimizer.freeze)
    if cache is not None:
        _name_parts(cache, recipe, module)
    return module


def _name_parts(cache: Cache, recipe: Recipe, module: T2XModule) -> None:
    """Tells the cache by which weights and settings latents and text tokens are known."""
    if cache.latents:
        cache.codec = identity_of(recipe.codec, module.codec.record()["sha256"])
    for name, encoder in module.frozen_encoders.items() if cache.text is not None else ():
        assert cache.text is not None
        config, record = recipe.text_encoders[name], encoder.record()
        cache.text.encoders[name] = identity_of(config, record["sha256"])
        if isinstance(encoder, LaterEncoder):
            cache.text.longest[name] = encoder.known.longest
            continue
        dims, longest = encoder.part.dims, encoder.part.longest
        cache.text.longest[name] = longest
        cache.remember(config, KnownEncoder(record["origin"], record["sha256"], dims.tokens, dims.pooled, longest))


def _build(component: Component, config: ComponentConfig, mode: FakeTensorMode | None) -> Any:
    """A codec or a text encoder; with a `mode`, without content if its weights are not on this machine."""
    if mode is None or config.at_hand():
        return component.build(config)
    if component.outline is None:
        raise UserError("its weights are not on this machine", hint="fetch them first")
    made = component.outline(config)
    without_content(made, mode)
    return made


def _must_be(wanted: type, made: Any) -> Any:
    """What a plugin made, if it is of the class `wanted`."""
    if not isinstance(made, wanted):
        raise UserError(f"its plugin must make a {wanted.__name__} of this, but returns {made!r}")
    return made


def build_data(assembly: Assembly, module: T2XModule) -> MixedData:
    """The data module of a recipe: every task's own, mixed."""
    recipe, quarantine, size = assembly.recipe, Quarantine(), batch_size(assembly.recipe, module)
    modules = {name: _data_of(assembly, module, name, quarantine) for name in assembly.tasks}
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
        error_location=assembly.composed.error_location,
        blocks={name: config.data_block(name) for name, config in recipe.tasks.items()},
        tokenizer=module.tokenizer,
        latent_shape=module.latent_shape,
        calls=module.calls,
        cached=partial(_cached, assembly, module),
    )


def _cached(assembly: Assembly, module: T2XModule, name: str, source: Source, train: bool) -> Source:
    """A source with what the cache has of it; UserError if what the recipe wants cannot be kept."""
    if module.cache is None:
        return source
    task, seed = module.tasks[name], assembly.recipe.seed
    found = module.cache.source(source, train, seed, task.separate_frames, task.encoded_controls)
    if isinstance(found, CachedSource) and train:
        with assembly.composed.error_location("cache"), module.calls(f"tasks.{name}.data", "fingerprint"):
            found.check(name)
    return found


def _data_of(assembly: Assembly, module: T2XModule, name: str, quarantine: Quarantine) -> TaskDataModule:
    recipe, task, codec = assembly.recipe, assembly.tasks[name], module.codec.part
    size, trainer = batch_size(recipe, module), recipe.trainer
    with assembly.composed.error_location(f"tasks.{name}"):
        recipe.tasks[name].check_trainable()
        with module.calls(f"tasks.{name}", "bucket"):
            bucket = task.bucket()
        if bucket is not None:
            batch = size(name, bucket)
        else:  # the least that a batch of any shape has
            batch = recipe.tasks[name].global_batch or (
                trainer.global_batch if trainer.tokens_per_step is None else trainer.batch_multiple
            )
        context = DataContext(
            seed=recipe.seed,
            task=name,
            pixel_multiple=codec.spatial_factor * recipe.backbone.patch_size,
            frame_factor=1 if task.separate_frames else codec.frame_factor,
            global_batch=batch,
            quarantine=quarantine,
        )
    block = recipe.tasks[name].data_block(name)
    with assembly.composed.error_location(block), module.calls(f"tasks.{name}.data", "data_module"):
        return _must_be(TaskDataModule, task.data_module(context))


def sample_bucket(assembly: Assembly, module: T2XModule, name: str) -> Bucket:
    """The shape of a sample of a task when nobody asks for another: what the task says, else its largest bucket."""
    with module.calls(f"tasks.{name}", "bucket"):
        bucket = assembly.tasks[name].bucket()
    if bucket is not None:
        return bucket
    data = _data_of(assembly, module, name, Quarantine())
    block = assembly.recipe.tasks[name].data_block(name)
    with assembly.composed.error_location(block), module.calls(f"tasks.{name}.data", "setup"):
        data.prepare_data()
        data.setup("fit")
        buckets = data.train_source().buckets()
        return buckets[largest(buckets)]


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
