"""`t2x demo RUN`."""

from __future__ import annotations

import argparse

from t2x_core.cli.options import whole
from t2x_core.cli.sample import check_which


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run_folder", metavar="RUN", help="folder of a run or an export, or name of a recipe (its newest run)"
    )
    parser.add_argument("--checkpoint", default="last", help="last, best, or the number of a step (default last)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine alone)"
    )
    parser.add_argument("--port", type=whole(1, 65535), help="port (default: the first free one from 7860 on)")
    parser.add_argument("--device", help="cpu, cuda … (default: a GPU if there is one)")
    parser.add_argument("--threads", type=whole(1, 1024), help="CPU threads (default: the recipe's trainer.threads)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from t2x_core.runs import find_run

    check_which(arguments.checkpoint)
    run = find_run(arguments.run_folder)

    from t2x_core.demo import library, serve

    library()  # before anything is loaded

    import torch

    from t2x_core.generation import T2XPipeline

    pipeline = T2XPipeline.from_pretrained(run, arguments.checkpoint, arguments.device)
    if threads := arguments.threads or pipeline.assembly.recipe.trainer.threads:
        torch.set_num_threads(threads)
    serve(
        pipeline,
        run.name if run.parent.name in ("", ".") else f"{run.parent.name}/{run.name}",
        arguments.host,
        arguments.port,
    )
    return 0
