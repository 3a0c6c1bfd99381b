"""The process that decodes: a request is a line of JSON on its input, the answer comes on its output.

It is a process of its own because decoders hang, crash and hold on to memory, and no time-out stops C++ from within.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any, BinaryIO

import numpy as np

from t2x_core.video.choice import Choice, ShortClipError
from t2x_core.video.reader import READERS, DamagedClipError, Frames, VideoReader

LENGTH = 8
"""Bytes of the length of the first part of an answer, the part in JSON."""
GLANCE = (64, 64)
"""Size at which frames are decoded just to see whether they can be."""


def measure(reader: type[VideoReader], path: str, whole: bool) -> dict[str, Any]:
    """Size, frames and seconds of a film; `whole`: its first, middle and last frame are decoded, too."""
    film = reader(path, None)
    times = checked(film.times)
    if whole:
        last = len(times) - 1
        numbers = sorted({0, last // 2, last})
        _read(reader(path, GLANCE), numbers, GLANCE)
    return {"height": film.height, "width": film.width, "frames": len(times), "seconds": float(times[-1] - times[0])}


def read(reader: type[VideoReader], path: str, told: dict[str, Any]) -> tuple[dict[str, Any], Frames]:
    """A clip, scaled to cover and cropped."""
    size, crop = tuple(told["size"]), tuple(told["crop"])
    film = reader(path, size)
    numbers, fps = Choice(**told["choice"])(checked(film.times), told["place"])
    frames = _read(film, numbers, size)
    top, left = (round(at * (n - m)) for at, n, m in zip(told["at"], size, crop, strict=True))
    return {"fps": fps, "numbers": numbers}, frames[:, top : top + crop[0], left : left + crop[1]]


def checked(times: np.ndarray) -> np.ndarray:
    """The times of a film, if they can be: damaged files hold all sorts."""
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise DamagedClipError("is damaged: the times of its frames are in disorder")
    return times


def _read(film: VideoReader, numbers: list[int], size: tuple[int, int]) -> Frames:
    frames = film.read(numbers)
    if frames.shape != (len(numbers), *size, 3):
        raise DamagedClipError(f"is damaged: asked for {len(numbers)} frames of {size}, it gives {frames.shape}")
    return frames


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """What is answered to a request: a description, and raw frames."""
    reader = READERS[request["reader"]]
    try:
        if request["what"] == "measure":
            return measure(reader, request["path"], request["whole"]), b""
        told, frames = read(reader, request["path"], request)
        return {**told, "shape": frames.shape}, np.ascontiguousarray(frames).tobytes()
    except ShortClipError as error:
        return {"short": str(error)}, b""
    except DamagedClipError as error:
        return {"damaged": str(error)}, b""


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answers until the other side hangs up."""
    for line in requests:
        told, frames = answer(json.loads(line))
        text = json.dumps(told).encode()
        answers.write(len(text).to_bytes(LENGTH, "big") + text + len(frames).to_bytes(LENGTH, "big"))
        answers.write(frames)
        answers.flush()


def _end_with(parent: int) -> None:
    """A decoder that hangs would outlive the process that asked."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def main() -> None:
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints must not get between the answers
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
