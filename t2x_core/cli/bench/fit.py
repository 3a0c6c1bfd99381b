"""`t2x bench fit [RECIPE] [key=value …]`."""

from __future__ import annotations

import argparse

from t2x_core.cli.bench.output import milliseconds, write_json
from t2x_core.cli.options import path
from t2x_core.cli.recipe_arguments import check_early


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", default="quickstart", help="default: quickstart")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    parser.add_argument("--blocks", type=int, default=20, help="turns of each loop that are measured (default 20)")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of a turn (default 20)")
    parser.add_argument(
        "--in-memory", action="store_true", help="the bare loop reads nothing: it has a few batches in memory"
    )
    parser.add_argument("--json", type=path, metavar="FILE", help="also write all times to FILE")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from t2x_core.errors import UserError

    for name, least in (("blocks", 2), ("steps", 1)):
        if getattr(arguments, name) < least:
            raise UserError(f"--{name} must be at least {least}, not {getattr(arguments, name)}")
    length = (arguments.blocks + 1) * arguments.steps + 1
    never = ("logging.validate_every", "logging.sample_every", "trainer.max_steps")
    arguments.overrides += [f"{key}={length}" for key in never]
    check_early(arguments)

    from t2x_core.assembly import load_assembly
    from t2x_core.bench.fit import bench_fit
    from t2x_core.bench.machine import in_words, machine

    assembly = load_assembly(arguments.recipe, arguments.overrides)
    result = bench_fit(assembly, arguments.blocks, arguments.steps, arguments.in_memory)
    low, high = result.spread
    here = machine()
    print(f"machine    {in_words(here)}")
    print(f"measured   {arguments.blocks} turns of {arguments.steps} steps, interleaved; medians")
    print(f"t2x fit    {milliseconds(result.fit)} a step")
    print(f"bare loop  {milliseconds(result.bare)} a step{', batches in memory' if arguments.in_memory else ''}")
    print(f"ratio      {result.ratio:.3f}  (quartiles {low:.3f} … {high:.3f})")
    if arguments.json:
        write_json(arguments.json, {"machine": here, "ratio": result.ratio, "fit": result.fit, "bare": result.bare})
    return 0
