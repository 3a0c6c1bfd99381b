"""`t2x bench start`."""

from __future__ import annotations

import argparse
from pathlib import Path

from t2x_core.cli.bench.output import write_json
from t2x_core.cli.options import path

KINDS = ("tar", "manifest")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--entries", type=int, default=100_000, help="images (default 100000)")
    parser.add_argument("--parts", type=int, default=100, help="shards, or folders below a manifest (default 100)")
    parser.add_argument("--kind", choices=KINDS, default="tar", help="tar shards, or files with a manifest")
    parser.add_argument("--check", choices=("full", "headers", "index"), default="index", help="of the recipe")
    parser.add_argument(
        "--out", type=path, metavar="FOLDER", help="new folder for the images, kept (default: a temporary)"
    )
    parser.add_argument("--json", type=path, metavar="FILE", help="also write all figures to FILE")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    import tempfile

    from t2x_core.bench.machine import machine
    from t2x_core.bench.start import BASE, BLOCK, start, write_images
    from t2x_core.errors import UserError
    from t2x_core.plain_files import make_empty

    if not 1 <= arguments.parts <= arguments.entries or arguments.entries < 2 * BASE:
        raise UserError(f"--entries must be at least {2 * BASE}, and --parts between 1 and that", where="command line")
    if arguments.out is not None:
        make_empty(arguments.out)
    with tempfile.TemporaryDirectory() as temporary:
        folder, check = arguments.out or Path(temporary), f"{BLOCK}.check={arguments.check}"
        small = write_images(arguments.kind, folder / "small", BASE, 1)
        settings = write_images(arguments.kind, folder / "images", arguments.entries, arguments.parts)
        here = machine()
        print(f"machine    {here['cpu']}, {here['cores']} cores")
        kind = f"{arguments.kind}, {arguments.parts} parts"
        print(f"measured   {arguments.entries:,} images ({kind}), check: {arguments.check}")
        base = start([*small, check], folder / "cache")
        found = {name: start([*settings, check], folder / "cache") for name in ("first", "second")}
        if arguments.kind == "tar":
            write_images("tar", folder / "images" / "more", arguments.entries // arguments.parts, 1)
            found["one more"] = start([*settings, check], folder / "cache")
    for name, each in found.items():
        seconds = f"{each['data']:.2f} s until the data is known, {each['first batch']:.2f} s more to the first batch"
        main, worker = each["main"] - base["main"], each["worker"] - base["worker"]
        more = f"{main:.0f} MB in the main process, {worker:.0f} in a worker"
        print(f"{name:<10} {seconds}; above {BASE} images {more}")
    if arguments.json:
        write_json(arguments.json, {"machine": here, "base": base, **found})
    return 0
