"""The option `--lora PATH[:WEIGHT]`."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence

from t2x_core.errors import UserError
from t2x_core.paths import user_path
from t2x_core.terminal import printable

HELP = "a LoRA to add: its run, its exported folder or a .safetensors file, and its weight (default 1); may be repeated"


def add_lora(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lora", dest="loras", action="append", default=[], metavar="PATH[:WEIGHT]", help=HELP)


def parse_loras(written: Sequence[str]) -> list[tuple[str, float]]:
    """Path and weight of each."""
    return [_parse(text) for text in written]


def _parse(text: str) -> tuple[str, float]:
    path, colon, weight = text.rpartition(":")
    if not colon or os.path.exists(user_path(text)):  # a path may hold colons itself
        return text, 1.0
    try:
        number = float(weight)
    except ValueError:
        return text, 1.0
    if not path or not math.isfinite(number):
        raise UserError(f'--lora takes PATH[:WEIGHT], not "{printable(text, 60)}"', where="command line")
    return path, number
