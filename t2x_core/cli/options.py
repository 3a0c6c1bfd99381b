"""Types of options: what argparse calls with the text of one."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from t2x_core.errors import UserError
from t2x_core.paths import user_path


def path(text: str) -> Path:
    """A path; `~` is the home folder."""
    try:
        return user_path(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def whole(least: int, most: int) -> Callable[[str], int]:
    """An integer of a range."""

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f'must be an integer, not "{text[:60]}"') from error
        if not least <= number <= most:
            bound = f"at least {least}" if number < least else f"at most {most}"
            raise argparse.ArgumentTypeError(f"must be {bound}, not {text[:60]}")
        return number

    return convert


def number(least: float, most: float) -> Callable[[str], float]:
    """A finite number of a range."""

    def convert(text: str) -> float:
        try:
            found = float(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f'must be a number, not "{text[:60]}"') from error
        if not math.isfinite(found) or not least <= found <= most:
            raise argparse.ArgumentTypeError(f"must be between {least:g} and {most:g}, not {text[:60]}")
        return found

    return convert
