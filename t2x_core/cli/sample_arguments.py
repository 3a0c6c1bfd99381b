"""What `t2x sample` is asked for, checked before anything heavy is imported."""

from __future__ import annotations

import argparse
import io
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from t2x_core.errors import UserError, did_you_mean
from t2x_core.paths import home_as_tilde, user_path
from t2x_core.terminal import printable

if TYPE_CHECKING:
    from t2x_core.recipe import Recipe, TaskConfig

LARGEST_PROMPTS = 16 * 2**20
"""Bytes of a file of prompts, at most."""
VIDEOS = (".mp4",)


def task_config(arguments: argparse.Namespace, recipe: Recipe | None) -> TaskConfig | None:
    """The settings of the task that is asked for; None if they are not known yet, or it is not clear which one."""
    tasks = recipe.tasks if recipe is not None else {}
    return tasks.get(arguments.task or next(iter(tasks), "")) if arguments.task or len(tasks) == 1 else None


def without_prompt(arguments: argparse.Namespace, recipe: Recipe | None) -> bool:
    """Whether samples may be made without a prompt, as far as is known."""
    config = task_config(arguments, recipe)
    return recipe is None if config is None else not config.needs_prompt


def input_files(arguments: argparse.Namespace, recipe: Recipe | None) -> dict[str, list[Path]]:
    """Input → its files, in the order of the command line."""
    found: dict[str, list[Path]] = {}
    config = task_config(arguments, recipe)
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


@dataclass(frozen=True)
class Model:
    """What RUN names."""

    name: str
    """As another process finds it, without the name of whose home it is in."""
    recipe: Path | str
    folder: Path | None = None
    """Of a run or an exported model; None: a recipe names the weights."""


def find_model(name: str) -> Model:
    """A run, an exported folder, a recipe that names weights, or a model on the hub; UserError if it is none."""
    from t2x_core.hub import SCHEME, hub_model
    from t2x_core.recipe import compose, find_recipe
    from t2x_core.runs import RECIPE_FILE, find_run

    place = hub_model(name)
    if place is None or not name.startswith(SCHEME):
        try:
            folder = find_run(name)
            return Model(home_as_tilde(folder.absolute()), folder / RECIPE_FILE, folder)
        except UserError as error:
            no_run = error
        try:
            node = compose(find_recipe(name)).find("backbone.weights")
            if node is not None and node.value is not None:
                named = home_as_tilde(user_path(name).absolute()) if os.path.isfile(user_path(name)) else name
                return Model(named, name)
        except UserError:
            pass
        if place is None:
            raise no_run
    try:
        folder, found = place.fetch()
    except UserError as error:
        if name.startswith(SCHEME):
            raise UserError(error.message, where="command line", hint=error.hint) from error
        raise mistake(f"{no_run.message}, and {error.message}", no_run.hint) from error
    if not os.path.isfile(folder / RECIPE_FILE):
        raise mistake(f"{name} on the hub is no model of t2x: it has no {RECIPE_FILE}")
    return Model(found, folder / RECIPE_FILE, folder)


def mistake(message: str, hint: str | None = None) -> UserError:
    """What is wrong with a command line."""
    return UserError(message, where="command line", hint=hint)


def check_which(checkpoint: str) -> None:
    """UserError if this is not the name of a checkpoint."""
    number = checkpoint.isascii() and checkpoint.isdecimal() and len(checkpoint) < 19
    if checkpoint not in ("last", "best") and not number:
        raise mistake(f'--checkpoint is last, best or the number of a step, not "{printable(checkpoint, 60)}"')


def output(text: str, format: str | None) -> tuple[Path, bool]:
    """Where to write, and whether that is a folder (is one, or ends in a slash); UserError if it cannot be written."""
    try:
        out = user_path(text)
    except UserError as error:
        raise mistake(error.message, error.hint) from error
    if not (text.endswith(("/", os.sep)) or os.path.isdir(out)):
        if format is not None:
            raise mistake("--format is for samples in a folder", f"end {out} in .{format}, or in a slash")
        check_writable(out)
        return out, False
    if not os.path.isdir(out.parent):
        raise mistake(f"cannot write {out}: there is no folder {out.parent}")
    try:
        os.makedirs(out, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise mistake(f"cannot write {out}: {error.strerror}") from error
    return out, True


def parse_aspect(aspect: str | None, size: str | None) -> float | None:
    """Width over height of `--aspect`."""
    if aspect is None:
        return None
    if size is not None:
        raise mistake("--aspect chooses the size; leave out --size")
    found = re.fullmatch(r"([0-9]{1,5}(?:\.[0-9]{1,5})?)[:x×/]([0-9]{1,5}(?:\.[0-9]{1,5})?)", aspect)
    if not found or not (width := float(found[1])) or not (height := float(found[2])):
        raise mistake(f'--aspect is WIDTH:HEIGHT, such as 16:9, not "{printable(aspect, 60)}"')
    return width / height


def size_settings(size: str | None, config: TaskConfig | None) -> list[str]:
    """`--size` as keys of the task's block `sampling`."""
    if size is None or config is None:  # without a task there is a mistake later
        return []
    if not (found := re.fullmatch(r"([0-9]{1,6})(?:[x×]([0-9]{1,6}))?", size)):
        raise mistake(f'--size is a number of pixels, or HEIGHTxWIDTH, not "{printable(size, 60)}"')
    height, width = found[1], found[2] or found[1]
    block = getattr(config, "sampling", None)
    if hasattr(block, "height") and hasattr(block, "width"):
        return [f"height={height}", f"width={width}"]
    if hasattr(block, "size") and height == width:
        return [f"size={height}"]
    shape = (
        "samples of this task are square" if hasattr(block, "size") else "the task has no size that could be asked for"
    )
    raise mistake(f"--size {size} cannot be: {shape}")


def check_writable(out: Path) -> None:
    """UserError if no image could be written to `out`: found before the work, not after it."""
    ending = out.suffix.lower()
    if not os.path.isdir(out.parent):
        raise mistake(f"cannot write {out}: there is no folder {out.parent}")
    if os.path.isdir(out):
        raise mistake(f"cannot write {out}: it is a folder", f"write {out / 'samples.png'}")
    if ending not in VIDEOS and not _pillow_writes(ending):
        raise mistake(
            f'cannot write {out}: "{ending}" is no format of images',
            "end it in .png, .gif or .mp4, or in a slash to make a folder",
        )
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


def checked_prompt(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise mistake(f'the prompt "{printable(text, 60)}" is not text in UTF-8') from error
    return text


def read_prompts(file: Path) -> list[str]:
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
