"""`t2x data caption SOURCE`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from t2x_core.cli.options import path, whole
from t2x_core.errors import UserError
from t2x_core.terminal import command

EXAMPLE = "HuggingFaceTB/SmolVLM-500M-Instruct"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", type=path, help="folder of images, manifest, or shards (.tar, .parquet)"
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="FOLDER|NAME",
        help=f"folder of a model, or its name on the hub, such as {EXAMPLE}",
    )
    parser.add_argument("--revision", help="commit, tag or branch on the hub")
    parser.add_argument(
        "--out", type=path, metavar="MANIFEST", help="manifest to write (default: SOURCE.captions.jsonl here)"
    )
    parser.add_argument("--prompt", help="what the model is asked, or what its captions begin with")
    parser.add_argument("--all", action="store_true", help="also images that have captions; these are replaced")
    parser.add_argument("--batch", type=whole(1, 4096), default=8, help="images at once (default: 8)")
    parser.add_argument(
        "--max-tokens", type=whole(1, 100_000), default=64, help="longest caption, in tokens (default: 64)"
    )
    parser.add_argument("--device", help="such as cuda:1 (default: the GPU, if there is one)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="precision (default: bfloat16 on a GPU, else float32)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    source: Path = arguments.source
    out: Path = arguments.out or Path(f"{source.resolve().stem.rstrip('*')}.captions.jsonl")
    if out.suffix.lower() != ".jsonl":
        raise UserError(f"--out: {out} must end in .jsonl", where="command line")
    if os.path.exists(out) and os.path.realpath(out) == os.path.realpath(source):
        raise UserError("--out is SOURCE", where="command line", hint="choose another --out")
    import torch

    from t2x_core.captioning.command import caption, find_images
    from t2x_core.captioning.manifest import CaptionManifest
    from t2x_core.captioning.model import Captioner
    from t2x_core.encoders.weights_config import WeightsConfig
    from t2x_core.training.log import start_log

    start_log(None)
    found, root = find_images(source, arguments.all)
    if not found.files:
        raise UserError(f"there are no images in {source}", where="command line")
    here = os.path.isdir(arguments.model)
    weights = WeightsConfig(
        folder=Path(arguments.model) if here else None,
        hub=None if here else arguments.model,
        revision=arguments.revision,
    )
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = arguments.dtype or ("float32" if device == "cpu" else "bfloat16")
    captioner = Captioner(weights, arguments.prompt, arguments.max_tokens, device, dtype)
    print(f"model      {captioner.name}")
    manifest = CaptionManifest(out, captioner.name, captioner.prompt)
    try:
        caption(found, root, captioner, manifest, arguments.all, arguments.batch)
    except KeyboardInterrupt:
        print(f"stopped    {len(manifest.done)} images in {out}; the same command goes on where it was")
        return 130
    finally:
        manifest.close()
    print(f"written    {len(manifest.done)} images → {out}")
    settings = (f"tasks.text-to-image.data.images.{key}" for key in (f"manifest={out}", f"folder={root}"))
    print(f"train      {command('t2x', 'fit', 'text_to_image/folder', *settings)}")
    return 0
