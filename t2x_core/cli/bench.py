"""`t2x bench fit [RECIPE] [key=value …]` and `t2x bench data [FOLDER]`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from t2x_core.cli.recipe_arguments import check_early


def configure(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="WHAT", required=True)
    fit = kinds.add_parser("fit", help="time of a step of `t2x fit` against a bare PyTorch loop")
    fit.add_argument("recipe", metavar="RECIPE", nargs="?", default="quickstart", help="default: quickstart")
    fit.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    fit.add_argument("--blocks", type=int, default=20, help="turns of each loop that are measured (default 20)")
    fit.add_argument("--steps", type=int, default=20, help="optimizer steps of a turn (default 20)")
    fit.add_argument("--json", type=Path, metavar="FILE", help="also write all times to FILE")
    fit.set_defaults(run=run_fit)
    data = kinds.add_parser("data", help="time of a clip as the loader reads it against decord alone")
    data.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, help="films to read (default: made for it)")
    data.add_argument("--blocks", type=int, default=20, help="turns of each that are measured (default 20)")
    data.add_argument("--frames", type=int, default=16, help="frames of a clip (default 16)")
    data.add_argument("--stride", type=int, default=2, help="every n-th frame is taken (default 2)")
    data.add_argument("--size", type=int, default=256, help="height and width of a clip in pixels (default 256)")
    data.add_argument("--json", type=Path, metavar="FILE", help="also write all times to FILE")
    data.set_defaults(run=run_data)


def run_fit(arguments: argparse.Namespace) -> int:
    from t2x_core.errors import UserError

    for name, least in (("blocks", 2), ("steps", 1)):
        if getattr(arguments, name) < least:
            raise UserError(f"--{name} must be at least {least}, not {getattr(arguments, name)}")
    length = (arguments.blocks + 1) * arguments.steps + 1
    never = ("watch.validate_every", "watch.sample_every", "trainer.max_steps")
    arguments.overrides += [f"{key}={length}" for key in never]
    check_early(arguments)

    from t2x_core.assembly import load_assembly
    from t2x_core.bench.fit import bench_fit
    from t2x_core.bench.machine import machine

    result = bench_fit(load_assembly(arguments.recipe, arguments.overrides), arguments.blocks, arguments.steps)
    low, high = result.spread
    here = machine()
    where = f"{here['cpu']}, {here['cores']} cores, {here['threads']} threads; GPU: {here['gpu']}"
    print(f"machine    {where}; torch {here['torch']}")
    print(f"measured   {arguments.blocks} turns of {arguments.steps} steps, interleaved; medians")
    print(f"t2x fit    {_milliseconds(result.fit)} a step")
    print(f"bare loop  {_milliseconds(result.bare)} a step")
    print(f"ratio      {result.ratio:.3f}  (quartiles {low:.3f} … {high:.3f})")
    if arguments.json:
        _write(arguments.json, {"machine": here, "ratio": result.ratio, "fit": result.fit, "bare": result.bare})
    return 0


def run_data(arguments: argparse.Namespace) -> int:
    import tempfile

    from t2x_core.bench.data import bench_data, find_films, write_films
    from t2x_core.bench.machine import machine
    from t2x_core.errors import UserError
    from t2x_core.video import DamagedClipError, ShortClipError

    for name, least in (("blocks", 2), ("frames", 1), ("stride", 1), ("size", 1)):
        if getattr(arguments, name) < least:
            raise UserError(f"--{name} must be at least {least}, not {getattr(arguments, name)}")
    asked = (arguments.blocks, arguments.frames, arguments.stride, arguments.size)
    with tempfile.TemporaryDirectory() as folder:
        films = find_films(arguments.folder) if arguments.folder else write_films(Path(folder))
        try:
            result = bench_data(films, *asked)
        except (DamagedClipError, ShortClipError) as error:
            raise UserError(f"a film in {arguments.folder} {error}", where="command line") from error
    low, high = result.spread
    here = machine()
    print(f"machine    {here['cpu']}, {here['cores']} cores")
    print(
        f"measured   {arguments.blocks} turns of {len(films)} clips of {arguments.frames} frames, interleaved; medians"
    )
    print(f"loader     {_milliseconds(result.loader)} a clip")
    print(f"decord     {_milliseconds(result.bare)} a clip")
    print(f"ratio      {result.ratio:.3f}  (quartiles {low:.3f} … {high:.3f})")
    if arguments.json:
        _write(arguments.json, {"machine": here, "ratio": result.ratio, "loader": result.loader, "bare": result.bare})
    return 0


def _milliseconds(seconds: list[float]) -> str:
    import statistics

    return f"{1000 * statistics.median(seconds):.2f} ms"


def _write(file: Path, content: dict[str, Any]) -> None:
    from t2x_core.errors import UserError

    try:
        file.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from error
