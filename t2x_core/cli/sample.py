"""`t2x sample RUN "a prompt" --out x.png`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from t2x_core import quick_start
from t2x_core.cli.again import again, note
from t2x_core.cli.lora_option import add_lora
from t2x_core.cli.open_model import open_model
from t2x_core.cli.options import number, path, whole
from t2x_core.cli.sample_arguments import (
    Model,
    check_which,
    checked_prompt,
    find_model,
    input_files,
    mistake,
    output,
    parse_aspect,
    read_prompts,
    size_settings,
    task_config,
    without_prompt,
)
from t2x_core.paths import home_as_tilde
from t2x_core.signals import exit_code
from t2x_core.wording import counted

if TYPE_CHECKING:
    from torch import Tensor

    from t2x_core.generation import T2XPipeline
    from t2x_core.sampling import Request

MOST_SAMPLES = 10_000
"""That one file shows."""
LARGEST_SEED = 2**63 - 1
PRECISIONS = ("32-true", "bf16", "fp16")
FORMATS = ("png", "webp", "gif", "mp4")
RUN = (
    "the model, then prompts. The model is the folder of a run or of an export, owner/name on the Hugging Face hub, or "
    "a recipe: its newest run, or without one the weights that it names (backbone.weights)"
)


def configure(parser: argparse.ArgumentParser) -> None:
    from t2x_core.recipe import SamplerConfig

    add = parser.add_argument
    add("prompts", nargs="*", default=[], metavar="RUN PROMPT", help=RUN)
    add("--prompts", dest="file", type=path, metavar="FILE", help="a text file with one prompt a line")
    add("--negative", metavar="PROMPT", help="negative prompt: guidance steers away from it")
    add("--num", type=whole(1, MOST_SAMPLES), help="samples of each prompt (default 1)")
    seed = "seed of each prompt's first sample; the others follow (default 0)"
    add("--seed", type=whole(0, LARGEST_SEED - MOST_SAMPLES), help=seed)
    add(
        "--out",
        help="file to write (default samples.png), or a folder, with a slash at the end: then each sample is a file, "
        "and a sheet has a row for each prompt",
    )
    add("--format", choices=FORMATS, help="format of the files in a folder (default: png, and mp4 for clips)")
    add("--raw", action="store_true", help="write a single sample without its caption")
    add("--again", type=path, metavar="FILE", help="repeat the samples of a file that `t2x sample` wrote")
    add("--task", help="which task, if the model was trained on several")
    add("--size", metavar="PIXELS", help="height and width, or HEIGHTxWIDTH (default: the commonest of training)")
    add(
        "--aspect",
        metavar="W:H",
        help="the trained shape nearest to this ratio of width to height: 16:9, 1:1 …",
    )
    add(
        "--set",
        dest="sampling",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the samples: a key of the task's block `sampling` (`t2x plugins TASK` shows it)",
    )
    add(
        "--input",
        dest="inputs",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="an image that the task needs besides the prompt, such as a first frame; repeat it for one image a prompt",
    )
    add("--sampler", choices=get_args(get_type_hints(SamplerConfig)["name"]), help="solver (default: the recipe's)")
    add("--steps", type=whole(1, 100_000), help="solver steps (default: the recipe's)")
    add("--guidance", type=number(0, 1e6), help="guidance scale, 1 = none (default: the recipe's)")
    add_lora(parser)
    add("--checkpoint", help="last, best, or the number of a step (default last)")
    batch = "samples computed at once (default: as memory allows)"
    add("--batch-size", type=whole(1, MOST_SAMPLES), help=batch)
    exact = "make the image of a seed independent of its batch, to the last bit; slower"
    add("--exact", action="store_true", help=exact)
    threads = "CPU threads (default: the recipe's trainer.threads)"
    add("--threads", type=whole(1, 1024), help=threads)
    add("--device", help="cpu, cuda … (default: a GPU if there is one)")
    add("--precision", choices=PRECISIONS, help="precision of the network (default 32-true; fp16: GPU only)")
    add("--compile", action="store_true", help="compile the network, which takes minutes and pays off for many samples")
    offload = "keep the weights in CPU memory, and one block at a time on the GPU"
    add("--offload", action="store_true", help=offload)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from t2x_core.entry_points import settings
    from t2x_core.recipe import Written, check_recipe, compose

    if arguments.again is not None:
        arguments = again(arguments)
    if not arguments.prompts:
        raise mistake("it is not said what to sample from", 'write t2x sample RUN "a prompt"')
    name, *words = arguments.prompts
    prompts = [*map(checked_prompt, words), *(read_prompts(arguments.file) if arguments.file else [])]
    each = arguments.num or 1
    if (count := len(prompts) * each) > MOST_SAMPLES:
        raise mistake(f"{count} samples are more than one file shows", f"at most {MOST_SAMPLES} at once")
    if arguments.raw and count > 1:
        raise mistake("--raw writes one sample", "for each in a file of its own, end --out in a slash")
    for item in arguments.sampling:
        if not all(item.partition("=")):
            raise mistake(f'--set takes KEY=VALUE, not "{item}"')
    check_which(arguments.checkpoint or "last")
    out, to_folder = output(arguments.out or "samples.png", arguments.format)
    model = find_model(name)
    recipe = check_recipe(compose(model.recipe), settings)  # a run's may have been edited
    inputs = input_files(arguments, recipe)
    aspect = parse_aspect(arguments.aspect, arguments.size)
    size = size_settings(arguments.size, task_config(arguments, recipe))
    if not prompts and not without_prompt(arguments, recipe):
        raise mistake("nothing to sample", "give a prompt, or --prompts FILE")
    prompts = prompts or [""]

    quick_start.prepare()

    from t2x_core.inputs import expanded

    pipeline = _open(model, arguments)
    if aspect is not None:
        arguments.size = _size_of(aspect, pipeline, arguments.task)
        size = size_settings(arguments.size, task_config(arguments, recipe))
    asked = [*size, *arguments.sampling]
    given = {"name": arguments.sampler, "steps": arguments.steps, "guidance": arguments.guidance}
    first = arguments.seed or 0
    request = pipeline.request(
        [prompt for prompt in prompts for _ in range(each)],
        [first + i for _ in prompts for i in range(each)],
        task=arguments.task,
        negative=arguments.negative,
        batch_size=arguments.batch_size,
        exact=arguments.exact,
        precision=arguments.precision or "32-true",
        inputs=expanded(inputs, len(prompts), each),
        sampling={key.strip(): Written(value) for key, _, value in (item.partition("=") for item in asked)},
        **{name: value for name, value in given.items() if value is not None},
    )
    noted = _noted(arguments, model, pipeline, request, {name: list(map(str, files)) for name, files in inputs.items()})
    writer = _Writer(pipeline, request, noted, prompts, each)
    stopped = 0
    try:
        with _progress(pipeline, request) as callback:
            for pixels in pipeline.stream(request, callback):
                writer.add(pixels, out if to_folder else None, arguments.format)
    except KeyboardInterrupt as error:
        stopped = exit_code(error)
    print(writer.finish(out, to_folder, arguments.raw, bool(stopped)))
    return stopped


def _open(model: Model, arguments: argparse.Namespace) -> T2XPipeline:
    checkpoint, loras = arguments.checkpoint or "last", arguments.loras
    pipeline = open_model(model, checkpoint, arguments.device, arguments.threads, loras, arguments.offload)
    if arguments.compile:
        from t2x_core.sampling import compile_blocks

        compile_blocks(pipeline.module)
    return pipeline


def _size_of(aspect: float, pipeline: T2XPipeline, task: str | None) -> str:
    """HEIGHTxWIDTH of the trained shape that is nearest to an aspect ratio, the commoner one of two."""
    trained = pipeline.trained.get(pipeline.assembly.task(task).name, [])
    if not trained:
        raise mistake("in which shapes the model was trained is not known", "write --size HEIGHTxWIDTH")
    chosen = min(trained, key=lambda b: (round(abs(math.log(b.width / b.height / aspect)), 6), -b.count))
    return f"{chosen.height}x{chosen.width}"


def _noted(
    arguments: argparse.Namespace, model: Model, pipeline: T2XPipeline, request: Request, inputs: dict[str, list[str]]
) -> dict[str, Any]:
    """What is noted in the files, prompts and seeds apart: where it is a default now, it may be another later."""
    step = Path(pipeline.origin).name.removeprefix("step_")
    task = pipeline.assembly.task(request.conditions.task)
    settings = request.settings
    return {
        **{"run": model.name, "checkpoint": int(step) if step.isdecimal() else None, "task": task.name},
        **{"negative": arguments.negative, "sampler": settings.name, "steps": settings.steps},
        **{"guidance": settings.guidance, "size": arguments.size, "set": list(arguments.sampling)},
        "lora": list(arguments.loras),
        "input": [f"{name}={home_as_tilde(Path(f).absolute())}" for name, files in inputs.items() for f in files],
        **{"exact": arguments.exact, "precision": arguments.precision, "compile": arguments.compile},
        **{"threads": arguments.threads, "device": arguments.device, "batch_size": arguments.batch_size},
        "shape": f"{request.bucket.frames}×{request.bucket.height}×{request.bucket.width}",
    }


class _Writer:
    """Keeps samples as they come, and writes them.

    Args:
        noted: what all files say of how they were made.
        each: samples of a prompt.
    """

    def __init__(
        self, pipeline: T2XPipeline, request: Request, noted: dict[str, Any], prompts: list[str], each: int
    ) -> None:
        self.pipeline, self.request, self.noted = pipeline, request, noted
        self.prompts, self.each, self.first = prompts, each, request.seeds[0]
        self.done: list[Tensor] = []

    def add(self, pixels: Tensor, folder: Path | None, format: str | None) -> None:
        """Takes the next samples; into a folder, each is written at once."""
        start = sum(map(len, self.done))
        self.done.append(pixels)
        if folder is not None:
            for i in range(len(pixels)):
                self._write_one(start + i, pixels[i : i + 1], folder, format)

    def _write_one(self, i: int, pixels: Tensor, place: Path, format: str | None) -> Path:
        from t2x_core.generation import Samples
        from t2x_core.sample_files import file_name, formats, write_sample

        one = Samples(pixels, self.request.conditions.select([i]), (self.request.seeds[i],))
        k = i // self.each
        known = formats(self.pipeline, one)
        if place.is_dir():
            if format not in (None, *known):
                raise mistake(f"--format {format} is not for these samples", f"it is {' or '.join(known)}")
            place = place / f"{file_name(i, self.prompts[k], self.request.seeds[i])}.{format or known[0]}"
        own = {**self.noted, "prompts": [self.prompts[k]], "num": 1, "seed": self.request.seeds[i], "raw": True}
        own["input"] = self._inputs_of(k)
        own["views"] = self.pipeline.assembly.task(one.conditions.task).separate_frames
        return write_sample(self.pipeline, one, place, note(own))

    def _inputs_of(self, k: int) -> list[str]:
        """The inputs of prompt k: one for all of a name, or the k-th of it."""
        by_name: dict[str, list[str]] = {}
        for item in self.noted["input"]:
            by_name.setdefault(item.partition("=")[0], []).append(item)
        return [items[k] if len(items) > 1 else items[0] for items in by_name.values()]

    def finish(self, out: Path, to_folder: bool, raw: bool, stopped: bool) -> str:
        """Writes what shows all samples that are done; says what was written."""
        import torch

        from t2x_core.rendering import save
        from t2x_core.sample_files import SHEET, formats, sheet

        if not self.done:
            return "stopped before the first batch of samples was done: nothing is written"
        samples = self.pipeline.samples(self.request, torch.cat(self.done))
        count = len(samples.seeds)
        said = f"stopped: {count} of {counted(len(self.request), 'sample')}" if stopped else counted(count, "sample")
        if raw and not to_folder:
            return f"{said} → {self._write_one(0, samples.pixels, out, None)}"
        if to_folder:
            first = formats(self.pipeline, samples)[0]
            out = out / f"{SHEET}.{first}"
        shown = self.prompts[: -(-count // self.each)]
        written = save(
            sheet(self.pipeline, samples, self.each),
            out,
            note({**self.noted, "prompts": shown, "num": self.each, "seed": self.first}),
        )
        return f"{said} → {written.parent}/, all on {written.name}" if to_folder else f"{said} → {written}"


@contextmanager
def _progress(pipeline: T2XPipeline, request: Request) -> Iterator[Callable[[int, int, Tensor], None]]:
    """A bar on a terminal; inside, what is to be called after each step of the solver."""
    from t2x_core.diffusion import ignore

    if not sys.stderr.isatty():
        yield ignore
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("left"))
    with Progress(
        *(*columns, TimeRemainingColumn()),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # else rich writes to what escapes the bar
        redirect_stderr=False,
    ) as bar:
        task, steps = bar.add_task("sampling", total=len(request) * request.settings.steps), 0

        def callback(step: int, of: int, latents: Tensor) -> None:
            nonlocal steps
            steps += len(latents)
            done = min(len(request), steps // of)
            bar.update(task, completed=steps, description=f"sampled {done} of {len(request)}")

        yield callback
