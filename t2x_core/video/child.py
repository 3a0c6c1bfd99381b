"""The process that decodes: a request is a line of JSON on its input, the answer comes on its output.

It is a process of its own because decoders hang, crash and hold on to memory, and no time-out stops C++ from within.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from t2x_core.media import Place, from_plain, on_disk
from t2x_core.video.choice import Choice, ShortClipError, Times
from t2x_core.video.reader import DamagedClipError, Frames, VideoReader, WrongTimesError, reader_class

LENGTH = 8
"""Bytes of the length of the first part of an answer, the part in JSON."""
GLANCE = (64, 64)
"""Size at which frames are decoded just to see whether they can be."""
ALIKE = 3.0
"""Mean difference of two decoders' pixels, of 255, up to which they show the same frame: they round differently."""


def measure(name: str, place: Place, whole: bool) -> dict[str, Any]:
    """Size, frames and seconds of a video; `whole`: its first, middle and last frame are decoded, too.

    `exact` says whether decord may read it: what it gives for these frames has been compared.
    """
    video = reader_class(name)(place, None)
    times, exact = checked(video.times), False
    if whole:
        glance = reader_class(name)(place, GLANCE)
        numbers, frames = _chosen(glance, _ends)
        exact = on_disk(place) and video.exact and np.array_equal(glance.times, times)
        exact = exact and decord_agrees(str(place), times, numbers, frames)
        times = checked(glance.times)
    seconds = float(times[-1] - times[0])
    size = {"height": video.height, "width": video.width}
    return {**size, "frames": len(times), "seconds": seconds, "exact": exact}


def read(name: str, place: Place, request: dict[str, Any]) -> tuple[dict[str, Any], Frames]:
    """A clip, scaled to cover and cropped."""
    video = reader_class(name)(place, tuple(request["size"]), tuple(request["background"]))
    choice, crop, at = Choice(**request["choice"]), tuple(request["crop"]), tuple(request["at"])
    numbers, frames, fps = clip_of(video, choice, request["start"], crop, at)
    return {"fps": fps, "numbers": numbers}, frames


def clip_of(
    video: VideoReader, choice: Choice, place: float, crop: tuple[int, int], at: tuple[float, float] = (0.5, 0.5)
) -> tuple[list[int], Frames, float]:
    """Numbers and pixels (F, *crop, 3) of the frames of a clip, and its frames a second."""
    numbers, frames = _chosen(video, lambda times: choice(times, place)[0])
    _, fps = choice(video.times, place)
    top, left = (round(a * (n - m)) for a, n, m in zip(at, (video.height, video.width), crop, strict=True))
    return numbers, frames[:, top : top + crop[0], left : left + crop[1]], fps


def decord_agrees(path: str, times: Times, numbers: list[int], frames: Frames) -> bool:
    """Whether decord gives the same frames at the same times."""
    try:
        video = reader_class("decord")(path, frames.shape[1:3])
        if len(video.times) != len(times) or np.abs(video.times - times).max() > 1e-3:
            return False
        differences = np.abs(video.read(numbers).astype(np.int16) - frames).mean((1, 2, 3))
    except (DamagedClipError, ImportError):
        return False
    return bool((differences <= ALIKE).all())


def checked(times: Times) -> Times:
    """The times of a video, if they can be: damaged files hold all sorts."""
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise DamagedClipError("is damaged: the times of its frames are in disorder")
    return times


def _ends(times: Times) -> list[int]:
    return sorted({0, (len(times) - 1) // 2, len(times) - 1})


def _chosen(video: VideoReader, choose: Callable[[Times], list[int]]) -> tuple[list[int], Frames]:
    """The frames that are chosen by their times, and their numbers; once more if the times turn out to be wrong."""
    numbers = choose(checked(video.times))
    try:
        frames = video.read(numbers)
    except WrongTimesError:
        numbers = choose(checked(video.times))
        frames = video.read(numbers)
    if frames.shape != (len(numbers), video.height, video.width, 3):
        raise DamagedClipError(f"is damaged: asked for {len(numbers)} frames, it gives {frames.shape}")
    return numbers, frames


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """What is answered to a request: a description, and raw frames."""
    try:
        place = from_plain(request["place"])
        if request["what"] == "measure":
            return measure(request["reader"], place, request["whole"]), b""
        reply, frames = read(request["reader"], place, request)
        return {**reply, "shape": frames.shape}, np.ascontiguousarray(frames).tobytes()
    except ShortClipError as error:
        return {"short": str(error)}, b""
    except DamagedClipError as error:
        return {"damaged": str(error)}, b""


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answers until the other side hangs up."""
    for line in requests:
        reply, frames = answer(json.loads(line))
        text = json.dumps(reply).encode()
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
