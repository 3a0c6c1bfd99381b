"""Sampling: from a trained run, or from a module that is being trained."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from t2x_core.assembly import Assembly, build_module, load_assembly, sample_bucket
from t2x_core.checkpoint import materialize, step_of
from t2x_core.diffusion import Callback, ignore
from t2x_core.errors import UserError
from t2x_core.export import export
from t2x_core.fine_tuned import LoraStack, build_tuned, open_lora, without_lora
from t2x_core.frozen import check_records
from t2x_core.initial import open_start
from t2x_core.inputs import with_inputs
from t2x_core.model_card import check_license
from t2x_core.module import T2XModule
from t2x_core.rendering import check_rendered, to_uint8
from t2x_core.run_facts import RunFacts, read_facts, trained_shape, trained_shapes
from t2x_core.runs import RECIPE_FILE
from t2x_core.sampling import Request, arithmetic, offload_blocks, sample_batches
from t2x_core.tensor_files import check_shapes
from t2x_core.types import Batch, Bucket, RenderedSamples
from t2x_core.weights import open_weights

log = logging.getLogger("t2x")

SHAPE_KEYS = ("height", "width", "size")
"""Keys of a block `sampling` by which somebody asks for a shape, trained or not."""


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
        origin: str = "",
    ) -> None:
        self.assembly, self.module = assembly, module.eval()
        self.origin = origin
        """Where the weights are: a checkpoint's folder, a file, or what the recipe names."""
        self.trained = dict(trained or {})
        """Task → the shapes of its training data, where they are known: by default one of these is sampled."""
        self._facts = facts
        self.loras = LoraStack(module)
        """Those of `load_lora`: `loras.weights` are their weights, which `loras.set` changes ({} takes all off)."""

    @classmethod
    def from_pretrained(
        cls, run: str | Path, checkpoint: str = "last", device: str | None = None, offload: bool = False
    ) -> T2XPipeline:
        """Opens a run's folder (the averaged weights of a checkpoint), or a folder that `save_pretrained` wrote.

        Args:
            run: the folder.
            checkpoint: "last", "best" or the number of a step, for a run.
            device: "cpu", "cuda", …; by default a GPU if there is one.
            offload: whether the weights of the backbone's blocks stay in the CPU's memory, and each block's are on the
                device only while it computes.

        Raises:
            UserError: there is no such folder or checkpoint, or it is of another model.
        """
        folder = Path(run)
        if not (folder / RECIPE_FILE).is_file():
            raise UserError(f"{folder} is no run: it has no {RECIPE_FILE}")
        file, weights, records = open_weights(folder, checkpoint)
        assembly = load_assembly(str(folder / RECIPE_FILE), [])
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("alignment.")}
        if assembly.recipe.backbone.lora is not None:
            assembly, module = build_tuned(assembly, weights, records, file)
        else:
            module = build_module(assembly, cached=False)  # an exported model needs no cache
            check_shapes({name: tensor.shape for name, tensor in module.stored().items()}, weights, where=str(file))
            check_records(records, module.records(), str(file))
            module.load_state_dict(materialize(weights), strict=False)
        step = step_of(file) if file.is_dir() else None
        facts = partial(read_facts, folder, step)
        return cls(assembly, _moved(module, device, offload), trained_shapes(folder), facts, str(file))

    @classmethod
    def from_recipe(
        cls, recipe: str | Path, overrides: Sequence[str] = (), device: str | None = None, offload: bool = False
    ) -> T2XPipeline:
        """Opens a recipe that names weights (`backbone.weights`), which must be those of the whole network.

        Args:
            recipe: its name or path.
            overrides: settings to change, as on the command line.
            device, offload: as for `from_pretrained`.

        Raises:
            UserError: the recipe names no weights, or they are not there, or do not fit.
        """
        assembly = without_lora(load_assembly(str(recipe), overrides))
        if assembly.recipe.backbone.weights is None:
            hint = "train it by t2x fit and sample from its run, or set backbone.weights"
            raise UserError(f"the recipe {recipe} names no weights to sample with", hint=hint)
        module = build_module(assembly, cached=False)  # an image does not depend on what was kept for training
        start = open_start(assembly, module)
        with assembly.composed.error_location(""):
            start.check_complete()
        start.load(module)
        return cls(assembly, _moved(module, device, offload), origin=start.name)

    def load_lora(self, lora: str | Path, weight: float = 1.0) -> None:
        """Adds a LoRA to the weights; several may be added, one after the other.

        Args:
            lora: the folder of its run, the folder that `t2x export` or peft wrote, or a safetensors file.
            weight: by which its effect is multiplied; may be negative.

        Raises:
            UserError: there is none, it could run code, it is of another network, or loaded already.
        """
        self.loras.load(open_lora(lora, root=self.assembly.recipe.logging.runs_dir), str(lora), weight)

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
        callback: Callback = ignore,
        **asked: Any,
    ) -> Samples:
        """Samples for prompts.

        Args:
            prompts, seeds: as `request` takes them.
            callback: called after each step of the solver with (step, from 1; steps in all; latents (B, C, F', H', W')
                of the batch after it), batch by batch.
            asked: what else `request` takes: `negative`, `sampling`, `inputs`, `exact`, `steps`, `guidance` …
        """
        request = self.request(prompts, seeds, **asked)
        return self.samples(request, torch.cat(list(self.stream(request, callback))))

    def request(
        self,
        prompts: str | Sequence[str] | None = None,
        seeds: int | Sequence[int] = 0,
        *,
        task: str | None = None,
        negative: str | Sequence[str] | None = None,
        inputs: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        exact: bool = False,
        precision: str = "32-true",
        sampling: Mapping[str, Any] | None = None,
        **sampler: Any,
    ) -> Request:
        """What is to be sampled, for `stream`; all that can be wrong with it is found here.

        Args:
            prompts: one, or several; None for a task that needs none.
            seeds: one for each prompt, or the first one (the next prompts take the numbers that follow).
            task: name of the task; needed if the model was trained on several.
            negative: what samples must not look like, one for all or one for each prompt: guidance leads away from it,
                in place of the unconditional (so it does nothing where `guidance` is 1).
            inputs: name → an image, or a list with one for each prompt: what the task takes besides prompts, such as a
                first frame; a file, an image of Pillow, or a tensor (3, H, W) in [-1, 1].
            batch_size: samples computed at once; by default as many as free memory allows.
            exact: the image of a seed is the same to the last bit whatever stands around it, which takes a fixed
                batch (of one, if `batch_size` does not say); without, images differ by the rounding of float32.
            precision: "32-true"; "bf16" and "fp16" (GPU) compute the network by autocast.
            sampling: values for keys of the task's block `sampling`: what else can be asked for.
            sampler: `name`, `steps`, `guidance` … (`SamplerConfig`), to differ from the recipe's.
        """
        assembly = self.assembly.with_sampling(task, sampling or {})
        chosen_task = assembly.task(task)
        arithmetic(precision, next(self.module.backbone.parameters()).device)
        if prompts is None and chosen_task.config.needs_prompt:
            raise UserError(f"{chosen_task.name} needs a prompt")
        prompts = [prompts or ""] if prompts is None or isinstance(prompts, str) else list(prompts)
        chosen = tuple(range(seeds, seeds + len(prompts))) if isinstance(seeds, int) else tuple(seeds)
        if len(chosen) != len(prompts):
            raise UserError(f"there are {len(prompts)} prompts but {len(chosen)} seeds")
        against = [negative] * len(prompts) if isinstance(negative, str) else negative
        if against is not None and len(against) != len(prompts):
            raise UserError(f"there are {len(prompts)} prompts but {len(against)} negative ones")
        path = f"tasks.{chosen_task.name}"
        try:
            with self.module.calls(path, "conditions"):
                batches = [chosen_task.conditions(texts) for texts in (prompts, against) if texts is not None]
            bucket = sample_bucket(assembly, self.module, chosen_task.name)
            block = getattr(assembly.recipe.tasks[chosen_task.name], "sampling", None)
            asked = any(getattr(block, key, None) is not None for key in SHAPE_KEYS)
            bucket = self._trained(bucket, chosen_task.name, asked)
            self.module.latent_shape(bucket, chosen_task.name)
            batches = [with_inputs(batch, chosen_task, inputs or {}, bucket) for batch in batches]
        except UserError as error:
            if error.key is None:  # the prompt's fault, and not the recipe's
                raise
            with assembly.composed.error_location(path):
                raise
        settings = replace(assembly.recipe.diffusion.sampler, **sampler)
        if against is not None and settings.guidance == 1:
            log.warning("the negative prompt does nothing: the guidance is 1")
        other = batches[1] if against is not None else None
        return Request(batches[0], chosen, bucket, settings, other, batch_size, exact, precision)

    def stream(self, request: Request, callback: Callback = ignore) -> Iterator[Tensor]:
        """Pixels (n, 3, F, H, W) in [-1, 1] of the next n samples of a request, on the CPU, until all are there."""
        for pixels in sample_batches(self.module, request, callback):
            yield pixels.cpu()

    def samples(self, request: Request, pixels: Tensor) -> Samples:
        """The first samples of a request, with what they were sampled from."""
        rows = list(range(len(pixels)))
        return Samples(pixels, request.conditions.select(rows), request.seeds[: len(pixels)])

    def _trained(self, bucket: Bucket, task: str, asked: bool) -> Bucket:
        """A shape that the task has trained in place of a default that it has not; the log says so. Of a shape that was
        asked for and not trained, too."""
        found = trained_shape(bucket, self.trained.get(task, ()))
        if (found.height, found.width) == (bucket.height, bucket.width):
            return bucket
        wanted, common = (f"{shape.height}×{shape.width}" for shape in (bucket, found))
        if asked:
            log.warning(
                "%s was not trained, and samples may show it: the commonest trained shape is %s", wanted, common
            )
            return bucket
        log.warning("%s was not trained: samples are %s, the commonest shape of the training data", wanted, common)
        return found

    def render(self, samples: Samples) -> RenderedSamples:
        """Samples as the task shows them: a grid with captions, an animation …"""
        task = self.assembly.task(samples.conditions.task)
        with self.module.calls(f"tasks.{task.name}", "render", samples.conditions, task.render):
            rendered = task.render(samples.pixels, samples.conditions)
            check_rendered(rendered)
        return rendered


def _moved(module: T2XModule, device: str | None, offload: bool) -> T2XModule:
    chosen = torch.device(_device(device))
    if offload:
        offload_blocks(module, chosen)
        return module
    return module.to(chosen)


def _device(name: str | None) -> str:
    """The device of that name, by default a GPU if there is one; UserError if there is none such."""
    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        raise UserError(f'there is no device "{chosen}" here', hint="write cpu, cuda or cuda:1, say") from error
    return chosen
