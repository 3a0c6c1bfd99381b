"""`t2x demo RUN`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from t2x_core.cli.again import note
from t2x_core.cli.lora_option import add_lora
from t2x_core.cli.open_model import open_model
from t2x_core.cli.options import whole
from t2x_core.cli.sample_arguments import check_which, find_model


def configure(parser: argparse.ArgumentParser) -> None:
    what = "a run or an exported folder; a recipe: its newest run, or the weights that it names; owner/name on the hub"
    parser.add_argument("run_folder", metavar="RUN", help=what)
    parser.add_argument("--checkpoint", default="last", help="last, best, or the number of a step (default last)")
    host = "address to listen on (default 127.0.0.1: this machine alone)"
    parser.add_argument("--host", default="127.0.0.1", help=host)
    parser.add_argument("--port", type=whole(1, 65535), help="port (default: the first free one from 7860 on)")
    parser.add_argument("--device", help="cpu, cuda … (default: a GPU if there is one)")
    parser.add_argument("--threads", type=whole(1, 1024), help="CPU threads (default: the recipe's trainer.threads)")
    add_lora(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    check_which(arguments.checkpoint)
    model = find_model(arguments.run_folder)

    from t2x_core.demo import library, serve

    library()  # before anything is loaded

    pipeline = open_model(model, arguments.checkpoint, arguments.device, arguments.threads, arguments.loras)
    title = "/".join(model.name.rstrip("/").split("/")[-2:])
    checkpoint = None if arguments.checkpoint == "last" else arguments.checkpoint
    own = {"run": model.name, "checkpoint": checkpoint}
    serve(pipeline, title, arguments.host, arguments.port, lambda made: noted(made, own))
    return 0


def noted(made: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """The note by which `t2x sample --again` makes the samples of a file once more."""
    settings = [f"{key}={value or 'null'}" for key, value in made["settings"].items()]
    same = {key: made[key] for key in ("task", "seed", "steps", "guidance")}
    prompts = [made["prompt"]] if made["prompt"] else []
    return note(
        {
            **own,
            **same,
            "prompts": prompts,
            "num": made["samples"],
            "negative": made["negative"] or None,
            "set": settings,
            "lora": [f"{lora}:{weight!r}" for lora, weight in made.get("lora", {}).items()],
        }
    )
