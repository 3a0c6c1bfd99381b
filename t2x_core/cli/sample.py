"""`t2x sample RUN "a prompt" --out x.png`."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from t2x_core.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run, or name of a recipe (its newest run)")
    parser.add_argument("prompts", nargs="*", default=[], metavar="PROMPT", help="what to show")
    parser.add_argument("--prompts", dest="file", type=Path, metavar="FILE", help="a text file with one prompt a line")
    parser.add_argument("--num", type=int, default=1, help="samples of each prompt (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of each prompt's first sample; the others follow")
    parser.add_argument("--out", type=Path, default=Path("samples.png"), help="file to write (default samples.png)")
    parser.add_argument("--task", help="which task, if the model was trained on several")
    parser.add_argument(
        "--set",
        dest="sampling",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what else is asked for: a key of the task's block sampling, which t2x plugins TASK shows",
    )
    parser.add_argument("--steps", type=int, help="solver steps (default: the recipe's)")
    parser.add_argument("--guidance", type=float, help="guidance scale, 1 = none (default: the recipe's)")
    parser.add_argument("--checkpoint", default="last", help="last, best, or the number of a step (default last)")
    parser.add_argument("--batch-size", type=int, default=1, help="samples computed at once (default 1)")
    parser.add_argument("--device", help="cpu, cuda … (default: a GPU if there is one)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from t2x_core.entry_points import settings
    from t2x_core.recipe import check_recipe, compose
    from t2x_core.runs import RECIPE_FILE, find_run

    prompts = [*arguments.prompts, *(_read(arguments.file) if arguments.file else [])]
    if not prompts:
        raise mistake("nothing to sample", "give a prompt, or --prompts FILE")
    for name in ("num", "batch_size", "steps"):
        if (given := getattr(arguments, name)) is not None and given < 1:
            raise mistake(f"--{name.replace('_', '-')} must be at least 1, not {given}")
    for item in arguments.sampling:
        if not all(item.partition("=")):
            raise mistake(f'--set takes KEY=VALUE, not "{item}"')
    check_which(arguments.checkpoint)
    check_writable(arguments.out)
    run = find_run(arguments.run_folder)
    check_recipe(compose(run / RECIPE_FILE), settings)  # it may have been edited

    from t2x_core.generation import T2XPipeline
    from t2x_core.rendering import save

    pipeline = T2XPipeline.from_pretrained(run, arguments.checkpoint, arguments.device)
    told = {"steps": arguments.steps, "guidance": arguments.guidance}
    asked = [item.partition("=") for item in arguments.sampling]
    samples = pipeline(
        [prompt for prompt in prompts for _ in range(arguments.num)],
        [arguments.seed + i for _ in prompts for i in range(arguments.num)],
        task=arguments.task,
        batch_size=arguments.batch_size,
        sampling={key: _value(value) for key, _, value in asked},
        **{name: value for name, value in told.items() if value is not None},
    )
    written = save(pipeline.render(samples), arguments.out)
    print(f"{len(samples.seeds)} samples → {written}")
    return 0


def _value(text: str) -> Any:
    """A value as it stands in a recipe."""
    from t2x_core.recipe.source import parse_value

    return parse_value(text).plain()


def mistake(message: str, hint: str | None = None) -> UserError:
    """What is wrong with a command line."""
    return UserError(message, where="command line", hint=hint)


def check_which(checkpoint: str) -> None:
    """UserError if this is not the name of a checkpoint."""
    if checkpoint not in ("last", "best") and not checkpoint.isdigit():
        raise mistake(f'--checkpoint is last, best or the number of a step, not "{checkpoint}"')


def check_writable(out: Path) -> None:
    """UserError if no picture could be written to `out`: found before the work, not after it."""
    from PIL import Image

    if not out.parent.is_dir():
        raise mistake(f"cannot write {out}: there is no folder {out.parent}")
    if out.is_dir():
        raise mistake(f"cannot write {out}: it is a folder", f"write {out / 'samples.png'}")
    if out.suffix.lower() not in (*Image.registered_extensions(), ".mp4"):
        raise mistake(f'cannot write {out}: "{out.suffix}" is no format of pictures', "end it in .png, .gif or .mp4")
    try:
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise mistake(f"cannot write {out}: {error.strerror}") from error


def _read(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise mistake(f"cannot read the prompts in {file}: {reason}") from error
    return [line.strip() for line in lines if line.strip()]
