"""Videos, read in a process of their own that is replaced when it hangs, crashes or has read enough."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TimedOutError
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from t2x_core.media import Place, load, special_file, to_plain
from t2x_core.video.child import LENGTH
from t2x_core.video.choice import Choice, ShortClipError
from t2x_core.video.reader import WHITE, Colour, DamagedClipError, Frames, readers_of

READS = 500
"""Requests after which the process is replaced, so that what a decoder holds on to does not pile up."""


@dataclass(frozen=True)
class Video:
    """What a video turned out to be."""

    height: int
    width: int
    frames: int
    seconds: float
    """From its first frame to its last."""
    exact: bool = False
    """Whether decord has been proved right about it."""


class Videos:
    """Reads videos by the reader that is right about them. May be copied into other processes; each then has a decoder
    process of its own.

    Args:
        seconds: how long one request may take; then the decoder is killed, and the next reader has its turn.
        readers: names, in the order in which they are tried; None: PyAV, for animated images Pillow, and before PyAV
            decord where it has been proved right.
    """

    def __init__(self, seconds: float = 60.0, readers: Sequence[str] | None = None) -> None:
        self.seconds = seconds
        self.readers = None if readers is None else list(readers)
        self._decoder: _Decoder | None = None

    def measure(self, place: Place, whole: bool) -> Video:
        """What a video is. Raises DamagedClipError; `whole`: some of its frames are decoded, too."""
        return Video(**self._ask(place, {"what": "measure", "whole": whole}, exact=False)[0])

    def clip(
        self,
        place: Place,
        choice: Choice,
        start: float,
        size: tuple[int, int],
        crop: tuple[int, int],
        at: tuple[float, float] = (0.5, 0.5),
        background: Colour = WHITE,
        exact: bool = False,
    ) -> tuple[Frames, float]:
        """A clip (F, height, width, 3) of a video, and its frames a second.

        Args:
            start: where it begins, 0 … 1, see `Choice`.
            size: (height, width) that the frames are scaled to.
            crop: (height, width) that is kept of that, `at` (0 … 1 from the top, and from the left).
            background: behind transparent pixels.
            exact: what `measure` said of it; then decord reads it.

        Raises:
            DamagedClipError: no reader can read it.
            ShortClipError: it is too short.
        """
        how = {"choice": asdict(choice), "start": start, "size": size, "crop": crop, "at": at}
        reply, raw = self._ask(place, {"what": "clip", "background": background, **how}, exact)
        return np.frombuffer(bytearray(raw), np.uint8).reshape(reply["shape"]), reply["fps"]

    def close(self) -> None:
        """Ends the decoder process; the next request starts another."""
        if self._decoder is not None:
            self._decoder.end()
            self._decoder = None

    def _ask(self, place: Place, request: dict[str, Any], exact: bool) -> tuple[dict[str, Any], bytes]:
        problem = special_file(place)  # opening a pipe waits for ever
        if problem is not None:
            raise DamagedClipError(problem)
        try:
            load(place)  # a server may take longer than decoding may
        except FileNotFoundError as error:
            raise DamagedClipError("is not there") from error
        except OSError as error:
            raise DamagedClipError(f"cannot be read: {error.strerror}") from error
        for reader in self.readers or readers_of(place, exact):
            decoder = self._running()
            try:
                reply, raw = decoder.ask({**request, "place": to_plain(place), "reader": reader}, self.seconds)
            except TimeoutError:
                self.close()
                problem = f"is damaged: decoding hangs (more than {self.seconds:g} s)"
                continue
            except (EOFError, OSError):
                self.close()
                problem = "is damaged: it makes the decoder crash"
                continue
            if "short" in reply:
                raise ShortClipError(reply["short"])
            if "damaged" not in reply:
                return reply, raw
            problem = reply["damaged"]
            if problem in ("is empty", "is not there") or problem.startswith("is text"):
                break  # no other reader will find more
        raise DamagedClipError(problem or "cannot be read: there is no reader")

    def _running(self) -> _Decoder:
        if self._decoder is not None and (self._decoder.owner != os.getpid() or self._decoder.asked >= READS):
            self.close()
        if self._decoder is None:
            self._decoder = _Decoder()
        return self._decoder

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decoder": None}

    def __del__(self) -> None:
        self.close()


class _Decoder:
    """A running decoder process."""

    def __init__(self) -> None:
        self.owner, self.asked = os.getpid(), 0
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "t2x_core.video.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders complain at length of what is damaged
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the training process
        )
        self._waiting = ThreadPoolExecutor(1, thread_name_prefix="t2x-video")

    def ask(self, request: dict[str, Any], seconds: float) -> tuple[dict[str, Any], bytes]:
        """The answer. Raises TimeoutError, or EOFError or OSError if the process has ended."""
        self.asked += 1
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        try:
            return self._waiting.submit(self._answer).result(seconds)
        except TimedOutError as error:
            raise TimeoutError from error

    def _answer(self) -> tuple[dict[str, Any], bytes]:
        reply = json.loads(self._part())
        return reply, self._part()

    def _part(self) -> bytes:
        assert self._process.stdout is not None
        length = self._exactly(LENGTH)
        return self._exactly(int.from_bytes(length, "big"))

    def _exactly(self, count: int) -> bytes:
        assert self._process.stdout is not None
        read = self._process.stdout.read(count)
        if len(read) < count:
            raise EOFError
        return read

    def end(self) -> None:
        """By force: it may hang. A copy in another process leaves it alone."""
        if self.owner != os.getpid():
            return
        self._process.kill()
        self._process.wait()
        self._waiting.shutdown()  # the end of the process is the end of what it waits for
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was not written yet
                if stream is not None:
                    stream.close()
