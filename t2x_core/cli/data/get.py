"""`t2x data get NAME`."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from t2x_core.cli.options import path
from t2x_core.terminal import command

NAMES = ("emoji",)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", choices=NAMES, help=f"which one: {', '.join(NAMES)}")
    parser.add_argument("--out", type=path, help="new folder for images and captions (default: data/NAME)")
    parser.add_argument("--archive", type=path, metavar="FILE", help="the archive, if it was downloaded before")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from t2x_core.datasets.emoji import LICENCE, PACKAGE, write_emoji
    from t2x_core.datasets.npm import fetch
    from t2x_core.datasets.written import check_free

    out: Path = arguments.out or Path("data") / arguments.name
    check_free(out)  # before the download
    with tempfile.TemporaryDirectory() as folder:
        archive = arguments.archive
        if archive is None:
            print(f"fetching  {PACKAGE.name} {PACKAGE.version} from npm, about 60 MB", flush=True)
            archive = fetch(PACKAGE, Path(folder))
        count, digest = write_emoji(archive, out)
    print(f"archive   {archive.name}, SHA-256 {digest}")
    print(f"written   {count} images with captions → {out} (hashes of all files in SHA256SUMS)")
    for line in LICENCE:
        print(line)
    print(f"train     {command('t2x', 'fit', 'text_to_image/emoji', f'tasks.text-to-image.data.images.folder={out}')}")
    return 0
