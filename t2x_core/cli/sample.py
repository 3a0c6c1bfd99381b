"""`t2x sample RUN "a prompt" --out x.png`."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run, or name of a recipe (its newest run)")
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="what to show")
    parser.add_argument("--prompts", dest="file", type=Path, metavar="FILE", help="a text file with one prompt a line")
    parser.add_argument("--num", type=int, default=1, help="samples of each prompt (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of each prompt's first sample; the others follow")
    parser.add_argument("--out", type=Path, default=Path("samples.png"), help="file to write (default samples.png)")
    parser.add_argument("--task", help="which task, if the model was trained on several")
    parser.add_argument("--steps", type=int, help="solver steps (default: the recipe's)")
    parser.add_argument("--guidance", type=float, help="guidance scale, 1 = none (default: the recipe's)")
    parser.add_argument("--checkpoint", choices=["last", "best"], default="last", help="which one (default last)")
    parser.add_argument("--batch-size", type=int, default=1, help="samples computed at once (default 1)")
    parser.add_argument("--device", help="cpu, cuda … (default: a GPU if there is one)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from t2x_core.errors import UserError

    prompts = [*arguments.prompts, *(_read(arguments.file) if arguments.file else [])]
    if not prompts:
        raise UserError("nothing to sample", hint="give a prompt, or --prompts FILE")
    for name in ("num", "batch_size"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(arguments, name)}")

    from t2x_core.generation import T2XPipeline
    from t2x_core.rendering import save
    from t2x_core.training.run_folder import find_run

    pipeline = T2XPipeline.from_pretrained(find_run(arguments.run_folder), arguments.checkpoint, arguments.device)
    told = {"steps": arguments.steps, "guidance": arguments.guidance}
    samples = pipeline(
        [prompt for prompt in prompts for _ in range(arguments.num)],
        [arguments.seed + i for _ in prompts for i in range(arguments.num)],
        task=arguments.task,
        batch_size=arguments.batch_size,
        **{name: value for name, value in told.items() if value is not None},
    )
    written = save(pipeline.render(samples), arguments.out)
    print(f"{len(samples.seeds)} samples → {written}")
    return 0


def _read(file: Path) -> list[str]:
    from t2x_core.errors import UserError

    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the prompts in {file}: {error}") from error
    return [line.strip() for line in lines if line.strip()]
