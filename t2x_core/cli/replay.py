"""`t2x replay RUN STEP`."""

from __future__ import annotations

import argparse
from pathlib import Path

from t2x_core.cli.options import path
from t2x_core.cli.sample_arguments import check_writable, mistake


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run, or name of a recipe (its newest run)")
    parser.add_argument("step", type=int, metavar="STEP", help="which step, as the log and TensorBoard count them")
    parser.add_argument(
        "--attempt", type=int, help="how often training had gone back before it (default: as reported, or 0)"
    )
    parser.add_argument("--num", type=int, default=16, help="samples in the image, at most (default 16)")
    parser.add_argument("--out", type=path, default=Path("replay.png"), help="file to write (default replay.png)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from t2x_core.entry_points import settings
    from t2x_core.recipe import check_recipe, compose
    from t2x_core.runs import RECIPE_FILE, find_run

    for name, given, least in (("STEP", arguments.step, 1), ("--num", arguments.num, 1)):
        if given < least:
            raise mistake(f"{name} must be at least {least}, not {given}")
    if arguments.attempt is not None and arguments.attempt < 0:
        raise mistake(f"--attempt must be at least 0, not {arguments.attempt}")
    check_writable(arguments.out)
    folder = find_run(arguments.run_folder)
    check_recipe(compose(folder / RECIPE_FILE), settings)  # it may have been edited

    from t2x_core.rendering import save
    from t2x_core.training.replay import replay

    replayed = replay(folder, arguments.step, arguments.attempt, arguments.num)
    written = save(replayed.render(), arguments.out)
    batch, report = replayed.batch, replayed.report
    frames, height, width = batch.shape
    shape = f"{height}×{width}" if frames == 1 else f"{frames}×{height}×{width}"
    print(f"step {replayed.step}, attempt {replayed.attempt}: {len(batch)} samples of {batch.task}")
    print(f"bucket {batch.keys[0].bucket}, {shape} pixels")
    if report is not None:
        print(f"skipped: {report['reason']}; loss {report['loss']}, gradient norm {report['gradient_norm']}")
    print(replayed.table())
    print(f"clean and noised → {written}")
    return 0
