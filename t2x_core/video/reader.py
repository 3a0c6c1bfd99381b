"""What reads videos: the interface, and which readers there are."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from t2x_core.media import Place, container, on_disk, open_place
from t2x_core.video.choice import Times

Frames = NDArray[np.uint8]
"""(F, height, width, 3), RGB."""
Colour = tuple[int, int, int]
"""RGB, 0 to 255."""
WHITE: Colour = (255, 255, 255)


class Decoded(NamedTuple):
    """A frame as the decoder gave it."""

    time: float | None
    """When it is shown, in seconds, if the decoder knows."""
    pixels: NDArray[np.uint8]
    """(height, width, 3), RGB."""
    corrupt: bool = False
    """Whether the decoder made up a part of it."""


class DamagedClipError(Exception):
    """The file cannot be read; says why, as in "is cut short"."""


class WrongTimesError(Exception):
    """The frames that were decoded are not those that `times` announced. `times` has been corrected: choose anew."""


class VideoReader(ABC):
    """An open video."""

    times: Times
    """(frames,) when each frame is shown, in seconds, never falling."""
    height: int
    width: int
    """Size of the frames as a player shows them, in pixels: upright, with square pixels."""
    exact: bool = False
    """Whether decord can be trusted with this file, by its packets; known when `size` is None."""

    @abstractmethod
    def __init__(self, place: Place, size: tuple[int, int] | None, background: Colour = WHITE) -> None:
        """Opens a file.

        Args:
            size: (height, width) that frames are scaled to; None for their own, as a player shows them.
            background: colour behind transparent pixels.
        """

    announced: int = 0
    """Frames that the file's header speaks of; 0: it does not say."""
    announced_seconds: float = 0.0
    """How long the video lasts by the file's header; 0: it does not say."""

    def every(self) -> Iterator[Decoded]:
        """All frames in the order in which the decoder gives them. Raises DamagedClipError where the file is damaged.

        The default reads them one by one.
        """
        for number, time in enumerate(self.times):
            yield Decoded(float(time), self.read([number])[0])

    @abstractmethod
    def read(self, numbers: Sequence[int]) -> Frames:
        """The frames of these numbers, which rise (some may be equal). WrongTimesError: choose them anew."""


MODULES = {"pyav": "pyav_reader", "decord": "decord_reader", "animation": "animation"}
"""Name of a reader → its module."""


def reader_class(name: str) -> type[VideoReader]:
    """The reader of this name; imported only where it is used."""
    found: type[VideoReader] = getattr(import_module(f"t2x_core.video.{MODULES[name]}"), f"{name.capitalize()}Reader")
    return found


def readers_of(place: Place, exact: bool) -> list[str]:
    """Names of the readers that are asked for a file, in this order.

    Args:
        exact: decord has been proved right about it (`Video.exact`). It is asked for no other file.
    """
    from t2x_core.video.animation import is_animation

    if is_animation(place):
        return ["animation"]
    return ["decord", "pyav"] if exact and on_disk(place) and find_spec("decord") is not None else ["pyav"]


def reason(place: Place, error: Exception) -> str:
    """What is wrong with a file, as in "is empty"."""
    try:
        with open_place(place) as stream:
            head = stream.read(1024)
            moov = b"ftyp" not in head[:16] or b"moov" in head + stream.read()
    except FileNotFoundError:
        return "is a link to a file that is not there" if os.path.islink(container(place)) else "is not there"
    except OSError as problem:
        return f"cannot be read: {problem.strerror}"
    if not head:
        return "is empty"
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return "is text, not a video"
    if not moov:
        return "is cut short: its index is missing"
    said: Any = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return f"is damaged or no video of a known kind ({said[-1][:80] if said else type(error).__name__})"
