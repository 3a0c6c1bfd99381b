"""`t2x bench data [FOLDER]`."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from t2x_core.cli.bench.output import milliseconds, write_json
from t2x_core.cli.options import path, whole

if TYPE_CHECKING:
    from t2x_core.bench.images import ImagesBenchmark


def configure(parser: argparse.ArgumentParser) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=path, help="videos to read (default: made for it)")
    parser.add_argument("--blocks", type=int, default=20, help="turns of each that are measured (default 20)")
    parser.add_argument("--frames", type=int, default=16, help="frames of a clip (default 16)")
    parser.add_argument("--stride", type=int, default=2, help="every n-th frame is taken (default 2)")
    parser.add_argument("--size", type=int, default=256, help="height and width of a clip in pixels (default 256)")
    parser.add_argument(
        "--images", type=whole(0, 10**6), default=640, help="JPEGs to make and read (default 640; 0: none)"
    )
    parser.add_argument(
        "--workers",
        type=whole(0, 1024),
        default=min(2, cores),
        help=f"loader processes for images (default {min(2, cores)})",
    )
    parser.add_argument("--json", type=path, metavar="FILE", help="also write all times to FILE")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    import tempfile

    from t2x_core.bench.data import bench_data, find_videos, write_videos
    from t2x_core.bench.images import BATCH
    from t2x_core.bench.machine import machine
    from t2x_core.errors import UserError
    from t2x_core.video import DamagedClipError, ShortClipError

    for name, least in (("blocks", 2), ("frames", 1), ("stride", 1), ("size", 1)):
        if getattr(arguments, name) < least:
            raise UserError(f"--{name} must be at least {least}, not {getattr(arguments, name)}")
    if 0 < arguments.images < 2 * BATCH:
        raise UserError(f"--images must be 0, or at least {2 * BATCH}, not {arguments.images}", where="command line")
    asked = (arguments.blocks, arguments.frames, arguments.stride, arguments.size)
    with tempfile.TemporaryDirectory() as folder:
        videos = find_videos(arguments.folder) if arguments.folder else write_videos(Path(folder))
        try:
            result = bench_data(videos, *asked)
        except (DamagedClipError, ShortClipError) as error:
            raise UserError(f"a video in {arguments.folder} {error}", where="command line") from error
    read = _images(arguments)
    here = machine()
    print(f"machine    {here['cpu']}, {here['cores']} cores")
    print(
        f"measured   {arguments.blocks} turns of {len(videos)} clips of {arguments.frames} frames, interleaved; medians"
    )
    for name, seconds in (("loader", result.loader), ("pyav", result.pyav), ("decord", result.decord)):
        content = result.content[name]
        right = f"{content.right} of {content.clips} clips are what a full decode shows"
        wrong = f"; not those of {', '.join(content.wrong[:3])}" + (" …" if content.wrong[3:] else "")
        print(f"{name:<10} {milliseconds(seconds)} a clip; {right}{wrong if content.wrong else ''}")
    for name in ("pyav", "decord"):
        low, high = result.spread(name)
        print(f"ratio      {result.ratio(name):.3f} to {name}  (quartiles {low:.3f} … {high:.3f})")
    print(f"use        {result.verdict()}")
    for line in _image_lines(read, arguments):
        print(line)
    if arguments.json:
        images = {} if read is None else {"images": dict(read.seconds)}
        plain = {**dataclasses.asdict(result), "ratio": result.ratio("decord"), **images}
        write_json(arguments.json, {"machine": here, **plain})
    if result.content["loader"].wrong:
        raise UserError(f"the loader gives other frames than a full decode of {result.content['loader'].wrong[0]}")
    return 0


def _images(arguments: argparse.Namespace) -> ImagesBenchmark | None:
    """What reading images takes; None if none are to be read."""
    import tempfile

    from t2x_core.bench.images import bench_images

    if not arguments.images:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return bench_images(Path(folder), arguments.images, arguments.blocks, arguments.workers)


def _image_lines(read: ImagesBenchmark | None, arguments: argparse.Namespace) -> Iterator[str]:
    from t2x_core.bench.images import BARE, FOLDER, TAR, WEBDATASET

    if read is None:
        return
    what = f"{arguments.blocks} turns of {arguments.images} images, {arguments.workers} loader processes"
    yield f"measured   {what}; medians"
    for name, seconds in read.seconds.items():
        yield f"{name:<10} {milliseconds(seconds)} an image"
    for reader, baseline in ((FOLDER, BARE), (TAR, WEBDATASET)):
        if baseline not in read.seconds:
            yield f"speed      {reader}: {baseline} is not installed"
            continue
        low, high = read.spread(reader, baseline)
        share = f"{reader}: {read.ratio(reader, baseline):.3f} of {baseline}"
        yield f"speed      {share}  (quartiles {low:.3f} … {high:.3f})"
