"""`t2x bench presets`."""

from __future__ import annotations

import argparse

from t2x_core.bench.backbone.options import read_tokens


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tokens", default="256,1024,4096", metavar="N,…", help="square images (default 256,1024,4096)"
    )
    parser.add_argument("--text", type=int, default=200, help="text tokens of a sample (default 200)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from t2x_core.errors import UserError

    grids = read_tokens(arguments.tokens)
    if not grids:
        raise UserError("--tokens names nothing", where="command line")
    if arguments.text < 1:
        raise UserError(f"--text must be at least 1, not {arguments.text}", where="command line")

    from t2x_core.bench.backbone.presets import markdown, sizes

    print(markdown(sizes(grids, arguments.text), grids))
    return 0
