"""`t2x fit RECIPE [key=value …]`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from t2x_core.cli.options import path
from t2x_core.cli.recipe_arguments import add_recipe, check_early
from t2x_core.errors import UserError
from t2x_core.output import lasting_output
from t2x_core.recipe import compose
from t2x_core.runs import find_run, find_weights
from t2x_core.terminal import command, sample_command

STARTED = time.perf_counter()
"""When the command began, for the time to the first step."""


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="resume RUN (default: the newest run of the recipe)",
    )
    where.add_argument("--folder", type=path, help="folder of the run (default: runs/<recipe>/<date-time>)")
    where.add_argument(
        "--dry-run", action="store_true", help="prepare everything up to the first step, print what would run, and stop"
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="WHAT",
        help="with --resume: accept that this has changed since: data, or a key of the recipe, such as lr",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    with lasting_output():
        recipe = check_early(arguments)
        if arguments.allow and arguments.resume is None:
            raise UserError("--allow goes with --resume", where="command line")
        if arguments.resume and recipe is not None:
            find_run(arguments.resume, recipe.logging.runs_dir)
        if recipe is not None and not arguments.dry_run:
            for name, task in recipe.tasks.items():
                with compose(arguments.recipe, arguments.overrides).error_location(f"tasks.{name}"):
                    task.check_trainable()
        if arguments.resume is None and recipe is not None and recipe.backbone.weights and not arguments.dry_run:
            with compose(arguments.recipe, arguments.overrides).error_location(""):
                find_weights(recipe.backbone.weights, recipe.logging.runs_dir)
        return _Command(arguments).run()


class _Command:
    """One call of `t2x fit` whose recipe has been read."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.recipe: Any = None
        """Of the assembly, as soon as there is one."""
        self.training = False
        """Whether there is a run to go on with."""

    def run(self) -> int:
        from t2x_core.training.failure import explain

        try:
            return self._fit()
        except UserError:
            raise
        except Exception as error:
            if os.environ.get("T2X_DEBUG") == "1":
                raise
            what = "training failed" if self.training else "training cannot start"
            print(f"t2x: {what}: {explain(error, self.recipe if self.training else None)}", file=sys.stderr)
            return 3

    def _fit(self) -> int:
        from t2x_core.assembly import build_data, build_module, load_assembly
        from t2x_core.initial import open_start
        from t2x_core.training import fit, parallel, preflight, run_folder
        from t2x_core.training.check_launch import check_launch
        from t2x_core.training.first_step import try_samples
        from t2x_core.training.log import start_log
        from t2x_core.training.precision import device_count
        from t2x_core.training.prompts import prompt_conditions

        arguments, launch = self.arguments, parallel.launched()
        start_log(None, quiet=launch.rank > 0)
        with parallel.Ranks(parallel.Launch() if arguments.dry_run else launch) as ranks:
            assembly = load_assembly(arguments.recipe, arguments.overrides)
            self.recipe = assembly.recipe
            with assembly.composed.error_location("trainer"):
                check_launch(assembly.recipe.trainer, launch)
            with assembly.composed.error_location(""):
                assembly.recipe.check_task_batches(device_count(assembly.recipe.trainer))
            if arguments.dry_run:
                return self._rehearse(assembly)
            module = build_module(assembly)  # before there is a folder: what cannot be built leaves none behind
            preflight.check_room(module, assembly.recipe)
            data = build_data(assembly, module)
            data.check()
            if arguments.resume is None:
                for name in assembly.tasks:
                    try_samples(assembly, module, data, name, scored=False)
                    prompt_conditions(assembly, module, data, name)
            start = None
            if assembly.recipe.backbone.weights is not None and arguments.resume is None and launch.rank == 0:
                start = open_start(assembly, module)  # the others find it in the folder
            ranks.connect(assembly, data, resume=arguments.resume, folder=str(arguments.folder))
            folder = ranks.decide(lambda: _folder(arguments, assembly, start))
            with run_folder.locked(folder) if launch.rank == 0 else nullcontext():
                console = start_log(folder / run_folder.LOG, quiet=launch.rank > 0)
                self.training = True
                try:
                    result = fit(
                        assembly,
                        module,
                        data,
                        folder,
                        resume=arguments.resume is not None,
                        allow=arguments.allow,
                        console=console,
                        started=STARTED,
                        ranks=ranks,
                    )
                except Exception as error:
                    if not isinstance(error, UserError) and os.environ.get("T2X_DEBUG") != "1":
                        ranks.failed(error)
                    raise
        return self._report(result, console)

    def _rehearse(self, assembly: Any) -> int:
        """A dry run. What the recipe lacks is said last, after what it would cost."""
        from t2x_core.assembly import build_data
        from t2x_core.initial import open_start
        from t2x_core.runs import find_weights
        from t2x_core.training import preflight, run_folder

        recipe, composed = assembly.recipe, assembly.composed
        try:
            for name, task in recipe.tasks.items():
                with composed.error_location(f"tasks.{name}"):
                    task.check_trainable()
            with composed.error_location(""):
                weights = recipe.backbone.weights and find_weights(recipe.backbone.weights, recipe.logging.runs_dir)
        except UserError:
            print("\n".join(preflight.outlook(assembly)))
            raise
        module = preflight.build_for_rehearsal(assembly)
        data = build_data(assembly, module)
        data.check()
        run_folder.check_root(recipe.logging.runs_dir)
        lines = [f"weights    {recipe.backbone.weights}: would be fetched from the hub"] if weights else []
        if isinstance(weights, Path):
            lines = open_start(assembly, module).describe()
        print("\n".join([*lines, *preflight.rehearse(assembly, module, data)]))
        return 0

    def _report(self, result: Any, console: Any) -> int:
        from t2x_core import quarantine
        from t2x_core.checkpoint import best_of
        from t2x_core.training.callbacks.progress import minutes

        folder = result.folder
        if result.signal is not None:
            again = command("t2x", "fit", self.arguments.recipe, "--resume", folder)
            console.print(f"saved at step {result.steps}; go on with: {again}")
            return 128 + result.signal
        if not result.trained and not result.seconds:
            console.print(f"nothing to do: {folder} has done its {result.steps} steps; set a larger trainer.max_steps")
        else:
            now = f" ({result.trained} of them now)" if result.trained < result.steps else ""
            done = f"trained {result.steps} steps{now}" if result.trained else "made the last samples"
            console.print(f"{done} in {minutes(result.seconds)}: images in {folder}/samples")
        if unread := quarantine.count(folder / quarantine.FILE_NAME):
            console.print(f"{unread} files could not be read: {folder / quarantine.FILE_NAME}")
        options = ["--num", "4", "--out", "x.png"]
        best = best_of(folder)
        if best is not None and best < result.steps:  # the last step is validated, too
            risen = f"the validation loss was lowest at step {best}, and has risen since"
            console.print(f"{risen}: --checkpoint best takes it")
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
    root = assembly.recipe.logging.runs_dir
    name = run_folder.recipe_name(find_recipe(arguments.recipe))
    if arguments.resume is None:
        folder = run_folder.new_run(root, name, arguments.folder)
        try:
            begun = {**plain, "backbone": {**plain["backbone"], "weights": start.name if start else None}}
            run_folder.write_run(folder, begun, assembly.packages, start.record() if start else None)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    else:
        folder = find_run(arguments.resume or name, root)
        own = load_assembly(str(folder / run_folder.RECIPE_FILE), [])
        places = run_folder.places(own.recipe) & run_folder.places(assembly.recipe)
        run_folder.check_resume(folder, to_plain(own.recipe), plain, places, arguments.allow)
    return folder
