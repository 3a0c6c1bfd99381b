"""`t2x export RUN --out FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path

from t2x_core.cli.options import path
from t2x_core.cli.sample import check_which, mistake
from t2x_core.terminal import command


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run, or name of a recipe (its newest run)")
    parser.add_argument("--out", type=path, required=True, help="new folder for the model and its recipe")
    parser.add_argument("--checkpoint", default="last", help="last, best, or the number of a step (default last)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from t2x_core.runs import find_run

    check_which(arguments.checkpoint)
    out: Path = arguments.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise mistake(f"{out} is there already", "choose a new folder")
    run = find_run(arguments.run_folder)

    from t2x_core.generation import MODEL_FILE, T2XPipeline

    try:
        T2XPipeline.from_pretrained(run, arguments.checkpoint, "cpu").save_pretrained(out)
    except OSError as error:
        raise mistake(f"cannot write {out}: {error.strerror}") from error
    size = (out / MODEL_FILE).stat().st_size
    again = command("t2x", "sample", out)
    print(f"averaged weights → {out / MODEL_FILE} ({size / 1e6:.1f} MB); {again} takes it like a run")
    return 0
