"""Sampling: from a trained run, or from a module that is being trained."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from t2x_core import keyed
from t2x_core.assembly import Assembly, build_module, load_assembly, sample_bucket
from t2x_core.backbone import ConditioningCache
from t2x_core.checkpoint import materialize, step_of
from t2x_core.diffusion import SAMPLERS, grid, guided
from t2x_core.errors import UserError
from t2x_core.export import export
from t2x_core.frozen import check_records
from t2x_core.initial import open_start
from t2x_core.inputs import with_inputs
from t2x_core.model_card import check_license
from t2x_core.module import T2XModule, check_shapes
from t2x_core.plain_files import read_json
from t2x_core.recipe import SamplerConfig
from t2x_core.rendering import check_rendered, to_uint8
from t2x_core.run_facts import RunFacts, read_facts
from t2x_core.runs import DATA_FILE, MODEL_FILE, RECIPE_FILE
from t2x_core.types import Batch, Bucket, RenderedSamples
from t2x_core.weights import about_exported, open_weights

log = logging.getLogger("t2x")

SHAPE_KEYS = ("height", "width", "size")
"""Keys of a block `sampling` by which somebody asks for a shape, trained or not."""


def trained_shape(wanted: Bucket, trained: Sequence[Bucket]) -> Bucket:
    """The shape that is wanted if it is trained, else the commonest with as many frames (if there is one)."""
    same = [bucket for bucket in trained if bucket.frames == wanted.frames and bucket.count]
    if not same or any((b.height, b.width) == (wanted.height, wanted.width) for b in same):
        return wanted
    return max(same, key=lambda bucket: bucket.count)


def trained_shapes(folder: Path) -> dict[str, list[Bucket]]:
    """Task → the shapes of its training data, as a run's or an exported folder says; none where it does not."""
    try:
        exported = (folder / MODEL_FILE).is_file()
        noted = about_exported(folder / MODEL_FILE)["shapes"] if exported else _of_run(read_json(folder / DATA_FILE))
        return {task: [Bucket(*map(int, shape)) for shape in shapes] for task, shapes in noted.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # an older one, or damaged
        return {}


def _of_run(noted: Mapping[str, Any]) -> dict[str, Any]:
    return {task: data["train"]["buckets"] for task, data in noted.items()}


@torch.no_grad()
def sample(
    module: T2XModule,
    conditions: Batch,
    seeds: Sequence[int],
    bucket: Bucket,
    config: SamplerConfig,
    batch_size: int = 1,
) -> Tensor:
    """Pixels (B, 3, F, H, W) in [-1, 1] for B conditions, each from its own seed.

    The last batch is filled up to `batch_size`, so that a sample is computed by the same operations whatever stands
    around it: the image of a seed depends on the prompt, the seed and `batch_size` alone, to the last bit.
    """
    was_training = module.training
    module.eval()
    try:
        pixels = []
        for start in range(0, len(conditions), batch_size):
            chosen = [min(i, len(conditions) - 1) for i in range(start, start + batch_size)]
            part = _sample_batch(module, conditions.select(chosen), [seeds[i] for i in chosen], bucket, config)
            pixels.append(part[: len(conditions) - start])
        return torch.cat(pixels)
    finally:
        module.train(was_training)


def _sample_batch(
    module: T2XModule, conditions: Batch, seeds: Sequence[int], bucket: Bucket, config: SamplerConfig
) -> Tensor:
    device = next(module.backbone.parameters()).device
    shape = module.latent_shape(bucket, conditions.task)
    noise = keyed.normal([keyed.key(seed, "sample") for seed in seeds], shape, device)
    batch = module.encode(module.with_text(conditions).to(device))
    conditioning, null = module.conditionings(batch, shape)
    with module.calls(f"tasks.{conditions.task}", "adapter.null", conditions):
        velocity = guided(
            lambda: partial(module.velocity, cache=ConditioningCache()),
            *(conditioning, null, config.guidance, config.guidance_interval, config.guidance_rescale),
        )
    times = module.path.time(grid(config.steps, 1.0, device), module.shift(shape, config.shift))
    latents = SAMPLERS[config.name](velocity, module.path.start(noise, times[0]), times)
    return module.decode(latents, conditions.task).clamp(-1, 1)


@dataclass(frozen=True)
class Samples:
    """What a pipeline returns."""

    pixels: Tensor
    """(B, 3, F, H, W) in [-1, 1]."""
    conditions: Batch
    """What they were sampled from."""
    seeds: tuple[int, ...]
    """One for each sample."""

    def images(self) -> list[Image.Image]:
        """The first frame of each sample."""
        return [Image.fromarray(frames[0].numpy()) for frames in to_uint8(self.pixels)]


class T2XPipeline:
    """A trained model that turns prompts into samples.

    Example:
        pipeline = T2XPipeline.from_pretrained("runs/quickstart/2026-01-31_12-00-00")
        pipeline(["a large red circle on the left"], seeds=[1]).images()[0].save("circle.png")
    """

    def __init__(
        self,
        assembly: Assembly,
        module: T2XModule,
        trained: Mapping[str, Sequence[Bucket]] | None = None,
        facts: Callable[[], RunFacts] = RunFacts,
    ) -> None:
        self.assembly, self.module = assembly, module.eval()
        self.trained = dict(trained or {})
        """Task → the shapes of its training data, where they are known: by default one of these is sampled."""
        self._facts = facts

    @classmethod
    def from_pretrained(cls, run: str | Path, checkpoint: str = "last", device: str | None = None) -> T2XPipeline:
        """Opens a run's folder (the averaged weights of a checkpoint), or a folder that `save_pretrained` wrote.

        Args:
            run: the folder.
            checkpoint: "last", "best" or the number of a step, for a run.
            device: "cpu", "cuda", …; by default a GPU if there is one.

        Raises:
            UserError: there is no such folder or checkpoint, or it is of another model.
        """
        folder = Path(run)
        if not (folder / RECIPE_FILE).is_file():
            raise UserError(f"{folder} is no run: it has no {RECIPE_FILE}")
        file, weights, records = open_weights(folder, checkpoint)
        assembly = load_assembly(str(folder / RECIPE_FILE), [])
        module = build_module(assembly, cached=False)  # an exported model needs no cache
        check_shapes({name: tensor.shape for name, tensor in module.stored().items()}, weights, where=str(file))
        check_records(records, module.referenced(), str(file))
        module.load_state_dict(materialize(weights), strict=False)
        step = step_of(file) if file.is_dir() else None
        return cls(assembly, module.to(_device(device)), trained_shapes(folder), partial(read_facts, folder, step))

    @classmethod
    def from_recipe(cls, recipe: str | Path, overrides: Sequence[str] = (), device: str | None = None) -> T2XPipeline:
        """Opens a recipe that names weights (`backbone.weights`), which must be those of the whole network.

        Args:
            recipe: its name or path.
            overrides: settings to change, as on the command line.
            device: "cpu", "cuda", …; by default a GPU if there is one.

        Raises:
            UserError: the recipe names no weights, or they are not there, or do not fit.
        """
        chosen = _device(device)
        assembly = load_assembly(str(recipe), overrides)
        if assembly.recipe.backbone.weights is None:
            hint = "train it by t2x fit and sample from its run, or set backbone.weights"
            raise UserError(f"the recipe {recipe} names no weights to sample with", hint=hint)
        module = build_module(assembly, cached=False)  # an image does not depend on what was kept for training
        start = open_start(assembly, module)
        with assembly.composed.error_location(""):
            start.check_complete()
        start.load(module)
        return cls(assembly, module.to(chosen))

    def save_pretrained(self, folder: str | Path, *, license: str | None = None, name: str | None = None) -> None:
        """Writes a folder that `from_pretrained` opens on any machine.

        It holds recipe, weights (safetensors), a model card with data counts, scores and samples of the run, and copies
        of the local files that codec and text encoders are made from.

        Where the training data was is left out; no file says where anything was on this machine.

        Args:
            license: for the card, as the hub writes it: "apache-2.0" …
            name: of the model, for the card; by default the folder's.

        Raises:
            OSError: it cannot be written; then the folder is as it was before.
        """
        facts = self._facts()
        license = None if license is None else check_license(license)
        export(self.assembly, self.module, Path(folder), self.trained, facts, license=license, name=name)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload a t2x model",
    ) -> str:
        """Writes what `save_pretrained` writes to a repository on the Hugging Face hub; returns the commit's URL.

        Args:
            repo_id: "owner/name"; made if it is not there.
            license: for the card, as the hub writes it: "apache-2.0" …
            private: whether a new repository is private; None: as the owner's account says.
            token: of the hub; None: that of `hf auth login`.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, license=license, name=repo_id)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message))

    def __call__(
        self,
        prompts: str | Sequence[str] | None = None,
        seeds: int | Sequence[int] = 0,
        *,
        task: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        batch_size: int = 1,
        sampling: Mapping[str, Any] | None = None,
        **sampler: Any,
    ) -> Samples:
        """Samples for prompts.

        Args:
            prompts: one, or several; None for a task that needs none.
            seeds: one for each prompt, or the first one (the next prompts take the numbers that follow).
            task: name of the task; needed if the model was trained on several.
            inputs: name → an image, or a list with one for each prompt: what the task takes besides prompts, such as a
                first frame; a file, an image of Pillow, or a tensor (3, H, W) in [-1, 1].
            batch_size: samples computed at once; more is faster, and needs more memory.
            sampling: values for keys of the task's block `sampling`: what else can be asked for.
            sampler: `name`, `steps`, `guidance` … (`SamplerConfig`), to differ from the recipe's.
        """
        assembly = self.assembly.with_sampling(task, sampling or {})
        chosen_task = assembly.task(task)
        if prompts is None and chosen_task.config.needs_prompt:
            raise UserError(f"{chosen_task.name} needs a prompt")
        prompts = [prompts or ""] if prompts is None or isinstance(prompts, str) else list(prompts)
        chosen = tuple(range(seeds, seeds + len(prompts))) if isinstance(seeds, int) else tuple(seeds)
        if len(chosen) != len(prompts):
            raise UserError(f"there are {len(prompts)} prompts but {len(chosen)} seeds")
        path = f"tasks.{chosen_task.name}"
        try:
            with self.module.calls(path, "conditions"):
                conditions = chosen_task.conditions(prompts)
            bucket = sample_bucket(assembly, self.module, chosen_task.name)
            block = getattr(assembly.recipe.tasks[chosen_task.name], "sampling", None)
            if all(getattr(block, key, None) is None for key in SHAPE_KEYS):
                bucket = self._trained(bucket, chosen_task.name)
            self.module.latent_shape(bucket, chosen_task.name)
            conditions = with_inputs(conditions, chosen_task, inputs or {}, bucket)
        except UserError as error:
            if error.key is None:  # the prompt's fault, and not the recipe's
                raise
            with assembly.composed.error_location(path):
                raise
        settings = replace(assembly.recipe.diffusion.sampler, **sampler)
        pixels = sample(self.module, conditions, chosen, bucket, settings, batch_size)
        return Samples(pixels, conditions, chosen)

    def _trained(self, bucket: Bucket, task: str) -> Bucket:
        """A shape that the task has trained in place of a default that it has not; the log says so."""
        found = trained_shape(bucket, self.trained.get(task, ()))
        if (found.height, found.width) != (bucket.height, bucket.width):
            said = [f"{shape.height}×{shape.width}" for shape in (bucket, found)]
            log.warning("%s was not trained: samples are %s, the commonest shape of the training data", *said)
        return found

    def render(self, samples: Samples) -> RenderedSamples:
        """Samples as the task shows them: a grid with captions, an animation …"""
        task = self.assembly.task(samples.conditions.task)
        with self.module.calls(f"tasks.{task.name}", "render", samples.conditions, task.render):
            rendered = task.render(samples.pixels, samples.conditions)
            check_rendered(rendered)
        return rendered


def _device(name: str | None) -> str:
    """The device of that name, by default a GPU if there is one; UserError if there is none such."""
    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        raise UserError(f'there is no device "{chosen}" here', hint="write cpu, cuda or cuda:1, say") from error
    return chosen
