"""README.md of an exported model: the model card of the Hugging Face hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from t2x_core.assembly import Assembly
from t2x_core.errors import UserError
from t2x_core.module import T2XModule
from t2x_core.run_facts import RunFacts
from t2x_core.wording import counted

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

HUB_TASKS = ("text-to-image", "text-to-video", "image-to-image", "image-to-video", "text-to-3d", "image-to-3d")
"""Names of tasks that the hub knows (`pipeline_tag`), where ours may be the same."""
EXAMPLE = "what you want to see"
PAPER = "[arXiv 2409.04005](https://arxiv.org/abs/2409.04005)"


def check_license(name: str) -> str:
    """A licence as the hub writes it; UserError if that cannot be one."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{1,40}", name):
        hint = "write it as the hub does: apache-2.0, mit, cc-by-4.0, openrail, other …"
        raise UserError(f'"{name}" is no licence that the hub knows', hint=hint)
    return name


def model_card(
    assembly: Assembly,
    module: T2XModule,
    facts: RunFacts,
    recipe: str,
    *,
    name: str,
    origins: Mapping[str, str],
    images: Mapping[str, str],
    license: str | None = None,
) -> ModelCard:
    """The card of a model.

    Args:
        recipe: the recipe, as it is given away.
        name: of the model: its folder or repository.
        origins: path of a part that is not in the weights → where it comes from.
        images: task → path in the folder of an image of samples.
        license: as the hub writes it; None: not known.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    tasks = list(assembly.recipe.tasks)
    results = [
        EvalResult(
            task_type=task,
            dataset_type="held-out",
            dataset_name="held-out samples of the training data",
            metric_type=what,
            metric_value=round(value, 4),
        )
        for task, scores in facts.scores.items()
        for what, value in scores.items()
    ]
    data = ModelCardData(
        license=license,
        library_name="t2x",
        pipeline_tag=next((task for task in tasks if task in HUB_TASKS), None),
        tags=["t2x", "pt-dit", "diffusion", *(task for task in tasks if task not in HUB_TASKS)],
        model_name=name,
        eval_results=results or None,
    )
    lines = [
        f"# {name}",
        *_summary(assembly, module),
        *_images(images, facts),
        *_use(assembly, name),
        *_training(assembly, facts),
        *_parts(origins),
        *_license(license),
        f"## Recipe\n\n<details><summary>recipe.yaml</summary>\n\n```yaml\n{recipe}```\n\n</details>",
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(lines) + "\n")


def _summary(assembly: Assembly, module: T2XModule) -> Iterator[str]:
    config, tasks = module.backbone.config, " and ".join(assembly.recipe.tasks)
    size = sum(p.numel() for p in module.backbone.parameters()) / 1e6
    shape = f"{config.depth} blocks of {config.width} channels, {size:.3g} M parameters"
    yield f"A PT-DiT ({PAPER}) for {tasks}, trained with t2x: {config.attention} attention, {shape}."


def _images(images: Mapping[str, str], facts: RunFacts) -> Iterator[str]:
    for task, image in images.items():
        yield f"![Samples of {task}]({image})\n\nSamples of held-out captions (`{task}`), not chosen."


def _use(assembly: Assembly, name: str) -> Iterator[str]:
    several, prompt = len(assembly.recipe.tasks) > 1, False
    first, config = next(iter(assembly.recipe.tasks.items()))
    prompt = config.needs_prompt
    inputs = {key: f"{key}.png" for key in config.inputs()}
    words = [f'"{EXAMPLE}"'] if prompt else []
    options = [
        "--out x.png",
        *(f"--input {k}={v}" for k, v in inputs.items()),
        *([f"--task {first}"] if several else []),
    ]
    more = (f", inputs={json.dumps(inputs)}" if inputs else "") + (f', task="{first}"' if several else "")
    yield "## Use"
    yield f"```sh\nt2x sample {name} {' '.join([*words, *options])}\n```"
    yield (
        "```python\nfrom t2x_core.generation import T2XPipeline\n\n"
        f'pipeline = T2XPipeline.from_pretrained("{name}")\n'
        f'pipeline({words[0] if words else "None"}, seeds=[1]{more}).images()[0].save("x.png")\n```'
    )
    yield (
        f"where `{name}` is the folder of these files. The backbone alone, without t2x's pipeline: "
        f'`t2x_core.backbone.PTDiT.from_pretrained("{name}")`.'
    )


def _training(assembly: Assembly, facts: RunFacts) -> Iterator[str]:
    recipe = assembly.recipe
    rows = []
    if facts.step:
        rows.append(("optimizer steps", f"{facts.step:,}"))
    if recipe.trainer.tokens_per_step is None:
        rows.append(("samples a step", f"{recipe.trainer.global_batch:,}"))
    for task, counts in facts.data.items():
        held_out = f", {counts['val']:,} held out" if counts.get("val") else ""
        rows.append((f"data of {task}", f"{counted(counts['train'], 'sample')}{held_out}"))
    if facts.val_loss is not None:
        rows.append(("validation loss", f"{facts.val_loss:.4f}"))
    rows += [(package, facts.versions[package]) for package in ("t2x", "torch") if package in facts.versions]
    if rows:
        yield "## Training\n\n| | |\n|---|---|\n" + "\n".join(f"| {title} | {value} |" for title, value in rows)
    for task, scores in facts.scores.items():
        table = "\n".join(f"| {what} | {value:.3f} |" for what, value in scores.items())
        when = f"`{task}`, on held-out samples, after {facts.scored_at:,} steps"
        yield f"Scores of {when}:\n\n| score | value |\n|---|---|\n{table}"


def _parts(origins: Mapping[str, str]) -> Iterator[str]:
    if origins:
        rows = "\n".join(f"| `{path}` | {origin} |" for path, origin in origins.items())
        yield (
            "## Parts of others\n\nThese are not in `model.safetensors`; read their licences, too.\n\n"
            f"| part | from |\n|---|---|\n{rows}"
        )


def _license(license: str | None) -> Iterator[str]:
    yield "## Licence\n\n" + (f"`{license}`" if license else "None was given: ask whom you have this model from.")
