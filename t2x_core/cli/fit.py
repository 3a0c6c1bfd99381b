"""`t2x fit RECIPE [key=value …]`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from t2x_core.cli.options import path
from t2x_core.cli.recipe_arguments import add_recipe, check_early
from t2x_core.errors import UserError
from t2x_core.recipe import compose
from t2x_core.runs import find_run, find_start
from t2x_core.terminal import command, sample_command

STARTED = time.perf_counter()
"""When the command began, to tell how long it took to the first step."""


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="go on with RUN, by default with the newest run of the recipe",
    )
    where.add_argument("--folder", type=path, help="folder of the run (default: runs/<recipe>/<date-time>)")
    where.add_argument("--dry-run", action="store_true", help="do all up to the first step, and say what would run")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    recipe = check_early(arguments)
    if arguments.resume and recipe is not None:
        find_run(arguments.resume, recipe.watch.runs_dir)
    if arguments.resume is None and recipe is not None and recipe.init_from is not None:
        with compose(arguments.recipe, arguments.overrides).blame(""):
            find_start(recipe.init_from, recipe.watch.runs_dir)

    from t2x_core import quarantine
    from t2x_core.assembly import build_data, build_module, load_assembly
    from t2x_core.checkpoint import best_of
    from t2x_core.training import fit, parallel, preflight, run_folder
    from t2x_core.training.callbacks.progress import minutes
    from t2x_core.training.failure import explain
    from t2x_core.training.initial import open_start
    from t2x_core.training.launch import check_launch
    from t2x_core.training.log import start_log
    from t2x_core.training.precision import device_count

    launch = parallel.launched()
    start_log(None, quiet=launch.rank > 0)
    with parallel.Ranks(parallel.Launch() if arguments.dry_run else launch) as ranks:
        assembly = load_assembly(arguments.recipe, arguments.overrides)
        with assembly.composed.blame("trainer"):
            check_launch(assembly.recipe.trainer, launch)
        with assembly.composed.blame(""):
            assembly.recipe.check_task_batches(device_count(assembly.recipe.trainer))
        module = build_module(assembly)  # all this before there is a folder: what cannot be built leaves none behind
        data = build_data(assembly, module)
        data.check()
        start = None
        if assembly.recipe.init_from is not None and arguments.resume is None and launch.rank == 0:
            start = open_start(assembly.recipe.init_from, assembly, module)  # the others find it in the run's folder
        if arguments.dry_run:
            run_folder.check_root(assembly.recipe.watch.runs_dir)
            print("\n".join([*(start.describe() if start else []), *preflight.rehearse(assembly, module, data)]))
            return 0
        ranks.connect(assembly, data, resume=arguments.resume, folder=str(arguments.folder))
        folder = ranks.decide(lambda: _folder(arguments, assembly, start))
        with run_folder.locked(folder) if launch.rank == 0 else nullcontext():
            console = start_log(folder / run_folder.LOG, quiet=launch.rank > 0)
            try:
                resume = arguments.resume is not None
                result = fit(
                    assembly, module, data, folder, resume=resume, console=console, started=STARTED, ranks=ranks
                )
            except UserError:
                raise
            except Exception as error:
                if os.environ.get("T2X_DEBUG") == "1":
                    raise
                ranks.failed(error)
                print(f"t2x: training failed: {explain(error, assembly.recipe)}", file=sys.stderr)
                return 3
    if result.signal is not None:
        again = command("t2x", "fit", arguments.recipe, "--resume", folder)
        console.print(f"saved at step {result.steps}; go on with: {again}")
        return 128 + result.signal
    console.print(f"trained {result.steps} steps in {minutes(result.seconds)}: pictures in {folder}/samples")
    if unread := quarantine.count(folder / quarantine.FILE_NAME):
        console.print(f"{unread} files could not be read: {folder / quarantine.FILE_NAME}")
    options = ["--num", "4", "--out", "x.png"]
    best = best_of(folder)
    if best is not None and best < result.steps:  # the last step is validated, too
        console.print(f"the validation loss was lowest at step {best}, and has risen since: --checkpoint best takes it")
        options = ["--checkpoint", "best", *options]
    console.print(f"next: {sample_command(folder, result.example, *options)}")
    console.print(f"      {command('tensorboard', '--logdir', folder)}")
    return 0


def _folder(arguments: argparse.Namespace, assembly: Any, start: Any) -> Path:
    """The run's folder, made or found. Its recipe names the very checkpoint that it starts from."""
    from t2x_core.assembly import load_assembly
    from t2x_core.recipe import find_recipe, to_plain
    from t2x_core.training import run_folder

    plain = to_plain(assembly.recipe)
    root = assembly.recipe.watch.runs_dir
    name = run_folder.recipe_name(find_recipe(arguments.recipe))
    if arguments.resume is None:
        folder = run_folder.new_run(root, name, arguments.folder)
        run_folder.write_run(folder, {**plain, "init_from": str(start.place) if start else None})
    else:
        folder = find_run(arguments.resume or name, root)
        own = load_assembly(str(folder / run_folder.RECIPE_FILE), [])
        run_folder.check_resume(folder, to_plain(own.recipe), plain)
    return folder
