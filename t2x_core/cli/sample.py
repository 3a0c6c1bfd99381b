"""`t2x sample RUN "a prompt" --out x.png`."""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from t2x_core.cli.options import number, path, whole
from t2x_core.errors import UserError, did_you_mean
from t2x_core.paths import user_path
from t2x_core.terminal import printable

if TYPE_CHECKING:
    from t2x_core.recipe import Recipe, TaskConfig

MOST_SAMPLES = 10_000
"""That one file shows."""
LARGEST_PROMPTS = 16 * 2**20
"""Bytes of a file of prompts, at most."""
LARGEST_SEED = 2**63 - 1
VIDEOS = (".mp4",)
WHAT = "folder of a run, or a recipe: its newest run, or without one the weights that it names (backbone.weights)"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help=WHAT)
    parser.add_argument("prompts", nargs="*", default=[], metavar="PROMPT", help="what to show")
    parser.add_argument("--prompts", dest="file", type=path, metavar="FILE", help="a text file with one prompt a line")
    parser.add_argument("--num", type=whole(1, MOST_SAMPLES), default=1, help="samples of each prompt (default 1)")
    parser.add_argument(
        "--seed",
        type=whole(0, LARGEST_SEED - MOST_SAMPLES),
        default=0,
        help="seed of each prompt's first sample; the others follow",
    )
    parser.add_argument("--out", type=path, default=Path("samples.png"), help="file to write (default samples.png)")
    parser.add_argument("--task", help="which task, if the model was trained on several")
    parser.add_argument(
        "--set",
        dest="sampling",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what else is asked for: a key of the task's block sampling, which t2x plugins TASK shows",
    )
    parser.add_argument(
        "--input",
        dest="inputs",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="an image that the task takes besides the prompt, such as a first frame; again: one for each prompt",
    )
    parser.add_argument("--steps", type=whole(1, 100_000), help="solver steps (default: the recipe's)")
    guidance = "guidance scale, 1 = none (default: the recipe's)"
    parser.add_argument("--guidance", type=number(0, 1e6), help=guidance)
    parser.add_argument("--checkpoint", default="last", help="last, best, or the number of a step (default last)")
    parser.add_argument(
        "--batch-size", type=whole(1, MOST_SAMPLES), default=1, help="samples computed at once (default 1)"
    )
    threads = "CPU threads (default: the recipe's trainer.threads)"
    parser.add_argument("--threads", type=whole(1, 1024), help=threads)
    parser.add_argument("--device", help="cpu, cuda … (default: a GPU if there is one)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from t2x_core.entry_points import settings
    from t2x_core.recipe import Written, check_recipe, compose
    from t2x_core.runs import RECIPE_FILE

    prompts = [*map(_prompt, arguments.prompts), *(_read(arguments.file) if arguments.file else [])]
    if (count := len(prompts) * arguments.num) > MOST_SAMPLES:
        raise mistake(f"{count} samples are more than one file shows", f"at most {MOST_SAMPLES} at once")
    for item in arguments.sampling:
        if not all(item.partition("=")):
            raise mistake(f'--set takes KEY=VALUE, not "{item}"')
    check_which(arguments.checkpoint)
    check_writable(arguments.out)
    run = _find_run(arguments.run_folder)  # None: it is a recipe that has no run
    source = arguments.run_folder if run is None else run / RECIPE_FILE
    recipe = check_recipe(compose(source), settings)  # a run's may have been edited
    inputs = _inputs(arguments, recipe)
    if not prompts and not _without_prompt(arguments, recipe):
        raise mistake("nothing to sample", "give a prompt, or --prompts FILE")
    prompts = prompts or [""]

    import torch

    from t2x_core.generation import T2XPipeline
    from t2x_core.inputs import expanded
    from t2x_core.rendering import save

    if run is None:
        pipeline = T2XPipeline.from_recipe(source, device=arguments.device)
    else:
        pipeline = T2XPipeline.from_pretrained(run, arguments.checkpoint, arguments.device)
    if threads := arguments.threads or pipeline.assembly.recipe.trainer.threads:
        torch.set_num_threads(threads)
    given = {"steps": arguments.steps, "guidance": arguments.guidance}
    asked = [item.partition("=") for item in arguments.sampling]
    samples = pipeline(
        [prompt for prompt in prompts for _ in range(arguments.num)],
        [arguments.seed + i for _ in prompts for i in range(arguments.num)],
        task=arguments.task,
        batch_size=arguments.batch_size,
        inputs=expanded(inputs, len(prompts), arguments.num),
        sampling={key.strip(): Written(value) for key, _, value in asked},
        **{name: value for name, value in given.items() if value is not None},
    )
    written = save(pipeline.render(samples), arguments.out)
    print(f"{len(samples.seeds)} samples → {written}")
    return 0


def _task_config(arguments: argparse.Namespace, recipe: Recipe | None) -> TaskConfig | None:
    """The settings of the task that is asked for; None if they are not known yet, or it is not clear which one."""
    tasks = recipe.tasks if recipe is not None else {}
    return tasks.get(arguments.task or next(iter(tasks), "")) if arguments.task or len(tasks) == 1 else None


def _without_prompt(arguments: argparse.Namespace, recipe: Recipe | None) -> bool:
    """Whether samples may be made without a prompt, as far as is known."""
    config = _task_config(arguments, recipe)
    return recipe is None if config is None else not config.needs_prompt


def _inputs(arguments: argparse.Namespace, recipe: Recipe | None) -> dict[str, list[Path]]:
    """Input → its files, in the order of the command line."""
    found: dict[str, list[Path]] = {}
    config = _task_config(arguments, recipe)
    for item in arguments.inputs:
        name, _, file = item.partition("=")
        if not name.strip() or not file.strip():
            raise mistake(f'--input takes NAME=FILE, not "{printable(item, 60)}"')
        if config is not None and name not in (known := config.inputs()):
            choice = ", ".join(f"{key} ({meaning})" for key, meaning in known.items())
            hint = did_you_mean(name, known) or (f"there is {choice}" if choice else "the task takes none")
            raise mistake(f'there is no input "{printable(name, 60)}"', hint)
        place = user_path(file)
        if not os.path.isfile(place):
            raise mistake(f"cannot read the input {name}: there is no file {printable(file, 200)}")
        found.setdefault(name, []).append(place)
    return found


def _find_run(name: str) -> Path | None:
    """The run of that name; None if there is none, but a recipe that names weights to sample with."""
    from t2x_core.recipe import compose, find_recipe
    from t2x_core.runs import find_run

    try:
        return find_run(name)
    except UserError:
        try:
            node = compose(find_recipe(name)).find("backbone.weights")
        except UserError:
            node = None
        if node is None or node.value is None:
            raise
        return None


def mistake(message: str, hint: str | None = None) -> UserError:
    """What is wrong with a command line."""
    return UserError(message, where="command line", hint=hint)


def check_which(checkpoint: str) -> None:
    """UserError if this is not the name of a checkpoint."""
    number = checkpoint.isascii() and checkpoint.isdecimal() and len(checkpoint) < 19
    if checkpoint not in ("last", "best") and not number:
        raise mistake(f'--checkpoint is last, best or the number of a step, not "{printable(checkpoint, 60)}"')


def check_writable(out: Path) -> None:
    """UserError if no image could be written to `out`: found before the work, not after it."""
    ending = out.suffix.lower()
    if not os.path.isdir(out.parent):
        raise mistake(f"cannot write {out}: there is no folder {out.parent}")
    if os.path.isdir(out):
        raise mistake(f"cannot write {out}: it is a folder", f"write {out / 'samples.png'}")
    if ending not in VIDEOS and not _pillow_writes(ending):
        raise mistake(f'cannot write {out}: "{ending}" is no format of images', "end it in .png, .gif or .mp4")
    if os.path.exists(out) and not os.path.isfile(out):
        raise mistake(f"cannot write {out}: it is no file")
    if os.path.isfile(out) and not os.access(out, os.W_OK):
        raise mistake(f"cannot write {out}: it is write-protected")
    try:
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise mistake(f"cannot write {out}: {error.strerror}") from error


def _pillow_writes(ending: str) -> bool:
    """Whether Pillow writes images in colour in the format of that ending: some it only reads, or writes in black."""
    from PIL import Image

    name = Image.registered_extensions().get(ending)
    if name not in Image.SAVE:
        return False
    try:
        Image.new("RGB", (2, 2)).save(io.BytesIO(), name)
    except Exception:  # whatever a format's own code raises
        return False
    return True


def _prompt(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise mistake(f'the prompt "{printable(text, 60)}" is not text in UTF-8') from error
    return text


def _read(file: Path) -> list[str]:
    """The prompts of a file; from a pipe as well."""
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST_PROMPTS + 1)
        if len(content) > LARGEST_PROMPTS:
            raise mistake(f"cannot read the prompts in {file}: it is larger than {LARGEST_PROMPTS // 2**20} MiB")
        lines = content.decode("utf-8-sig").replace("\r", "\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise mistake(f"cannot read the prompts in {file}: {reason}") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise mistake(f"there is no prompt in {file}", "write one on each line")
    return prompts
