"""`t2x plan RECIPE [key=value …]`."""

from __future__ import annotations

import argparse
from typing import Any

from t2x_core.cli.completion import completes
from t2x_core.cli.options import whole
from t2x_core.cli.recipe_arguments import add_recipe, check_early
from t2x_core.errors import UserError
from t2x_core.output import lasting_output

MEASURED = 8
"""Steps of `--measure`, unless it says how many."""
WIDE = 160
"""Columns of a table in a file or a pipe."""


def configure(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    where = parser.add_mutually_exclusive_group()
    device = where.add_argument("--device", metavar="NAME", help='what it shall run on, such as "H100" (default: here)')
    completes(device, _gpu_names)
    where.add_argument(
        "--measure",
        nargs="?",
        type=whole(1, 10_000),
        const=MEASURED,
        metavar="STEPS",
        help=f"train so many steps here (default {MEASURED}), and take their speed in place of an assumed one",
    )
    parser.add_argument("--ranks", type=whole(1, 1_000_000), metavar="N", help="on so many devices together")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.ranks is not None:
        arguments.overrides += [f"trainer.devices={arguments.ranks}", "trainer.num_nodes=1"]
    with lasting_output():
        check_early(arguments)
        return _plan(arguments)


def _plan(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from t2x_core.assembly import build_data, build_module, load_assembly
    from t2x_core.training.cache_size import cache_size
    from t2x_core.training.gpus import find_gpu
    from t2x_core.training.log import start_log
    from t2x_core.training.plan import devices_for, make_plan, ranks
    from t2x_core.training.preflight import about, describe
    from t2x_core.training.speed import measure_speed
    from t2x_core.types import Bucket

    start_log(None, quiet=arguments.json)
    gpu = None if arguments.device is None else find_gpu(arguments.device)
    assembly = load_assembly(arguments.recipe, arguments.overrides)
    recipe, missing = assembly.recipe, None
    with assembly.composed.error_location(""):
        recipe.check_task_batches(ranks(recipe.trainer) // recipe.trainer.num_nodes)
    try:
        for name, task in recipe.tasks.items():
            with assembly.composed.error_location(f"tasks.{name}"):
                task.check_trainable()
    except UserError as error:  # said last, after what the recipe alone says
        missing = error
    module, data = build_module(assembly, outline=True), None
    if missing is None:
        data = build_data(assembly, module)
        data.check()
    lines = describe(assembly, module) if data is None else about(assembly, module, data)
    if gpu is not None and recipe.trainer.accelerator == "cpu":
        lines.append(f"note       trainer.accelerator is cpu: to train on {gpu.name}, write trainer.accelerator=auto")
    if not arguments.json:
        print("\n".join(lines), flush=True)
    plan = make_plan(assembly, module, data, gpu)
    if data is not None:
        of_bucket = {
            (one.task, Bucket(one.frames, one.height, one.width, one.samples or 0)): one.tokens.latents
            for one in plan.buckets
        }
        plan = replace(plan, cache=cache_size(recipe.cache, module, data, of_bucket))
    if arguments.measure is not None and missing is None:
        if plan.flops is None:
            raise UserError(f"the speed cannot be told from some steps: {plan.unknown}")
        start_log(None, quiet=True)
        speed = measure_speed(arguments.recipe, arguments.overrides, plan, arguments.measure)
        plan = replace(plan, devices=list(devices_for(recipe, plan.flops, plan.memory, speed=speed)))
    _show(plan, lines, arguments.json)
    if missing is not None:
        raise missing
    return 0


def _show(plan: Any, lines: list[str], as_json: bool) -> None:
    import json

    from t2x_core.training.log import PlainConsole
    from t2x_core.training.plan_text import bucket_table, cache_line, cost_lines, memory_line, plan_json

    if as_json:
        notes = [line.removeprefix("note").strip() for line in lines if line.startswith("note ")]
        print(json.dumps(plan_json(plan, notes), indent=1))
        return
    console = PlainConsole(highlight=False)
    console.width = max(console.width, WIDE) if not console.is_terminal else console.width
    console.print(bucket_table(plan), soft_wrap=False)
    print("\n".join([*cost_lines(plan), f"precision  {plan.precision}", memory_line(plan), *cache_line(plan)]))


def _gpu_names() -> list[str]:
    from t2x_core.training.gpus import GPUS

    return [gpu.name for gpu in GPUS]
