"""What reads films: decord, and where it fails PyAV."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2x_core.video.choice import Times

Frames = NDArray[np.uint8]
"""(F, height, width, 3), RGB."""


class DamagedClipError(Exception):
    """The file cannot be read; says why, as in "is cut short"."""


class VideoReader(ABC):
    """An open film."""

    times: Times
    """(frames,) when each frame is shown, in seconds."""
    height: int
    width: int
    """Size of the frames as they are read, in pixels."""

    @abstractmethod
    def __init__(self, path: str, size: tuple[int, int] | None) -> None:
        """Opens a file; `size`: (height, width) that frames are scaled to, None for their own."""

    @abstractmethod
    def read(self, numbers: Sequence[int]) -> Frames:
        """The frames of these numbers, which rise (some may be equal)."""


class DecordReader(VideoReader):
    """decord: the fastest at picking frames. Opened for one clip and dropped, since an idle reader fills memory."""

    def __init__(self, path: str, size: tuple[int, int] | None) -> None:
        import decord

        height, width = size or (-1, -1)
        try:
            self.film = decord.VideoReader(path, ctx=decord.cpu(0), width=width, height=height, num_threads=1)
            count = len(self.film)
            if not count:
                raise DamagedClipError("has no frames")
            self.times = np.asarray(self.film.get_frame_timestamp(range(count)), dtype=np.float64)[:, 0]
            if size is None:
                height, width = self.film[0].shape[:2]
        except (RuntimeError, decord.DECORDError, IndexError) as error:
            raise DamagedClipError(reason(path, error)) from error
        self.height, self.width, self.path = height, width, path

    def read(self, numbers: Sequence[int]) -> Frames:
        import decord

        try:
            return self.film.get_batch(list(numbers)).asnumpy()
        except (RuntimeError, decord.DECORDError) as error:
            raise DamagedClipError(reason(self.path, error)) from error


class PyavReader(VideoReader):
    """PyAV: decodes from the beginning up to the last frame that is wanted. Slow, and hard to irritate."""

    def __init__(self, path: str, size: tuple[int, int] | None) -> None:
        import av

        self.path, self.size = path, size
        try:
            with av.open(path) as container:
                if not container.streams.video:
                    raise DamagedClipError("has no pictures: it is sound only")
                stream = container.streams.video[0]
                stamps = [p.pts * p.time_base for p in container.demux(stream) if p.pts is not None and p.time_base]
                self.height, self.width = size or (stream.height, stream.width)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise DamagedClipError(reason(path, error)) from error
        if not stamps:
            raise DamagedClipError("has no frames")
        self.times = np.sort(np.array([float(stamp) for stamp in stamps], dtype=np.float64))

    def read(self, numbers: Sequence[int]) -> Frames:
        import av

        frames: dict[int, Any] = {}
        wanted = set(numbers)
        try:
            with av.open(self.path) as container:
                container.streams.video[0].thread_type = "NONE"
                for number, frame in enumerate(container.decode(video=0)):
                    if number in wanted:
                        frames[number] = frame.to_ndarray(format="rgb24")
                    if number >= numbers[-1]:
                        break
        except (av.FFmpegError, OSError, ValueError) as error:
            raise DamagedClipError(reason(self.path, error)) from error
        if wanted - frames.keys():
            raise DamagedClipError(f"is cut short: it ends before frame {min(wanted - frames.keys())}")
        pictures = [frames[number] for number in numbers]
        return np.stack(pictures if self.size is None else [scaled(picture, self.size) for picture in pictures])


READERS: dict[str, type[VideoReader]] = {"decord": DecordReader, "pyav": PyavReader}
"""Name → reader, in the order in which they are tried."""
PACKAGES = {"decord": "decord", "pyav": "av"}


def installed() -> list[str]:
    """Names of the readers that are installed, in the order in which they are tried."""
    return [name for name in READERS if find_spec(PACKAGES[name]) is not None]


def scaled(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture (h, w, 3) at (height, width)."""
    from PIL import Image

    height, width = size
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def reason(path: str, error: Exception) -> str:
    """What is wrong with a file, as in "is empty"."""
    file = Path(path)
    try:
        with file.open("rb") as stream:
            head = stream.read(1024)
    except FileNotFoundError:
        return "is a link to a file that is not there" if file.is_symlink() else "is not there"
    except OSError as problem:
        return f"cannot be read: {problem.strerror}"
    if not head:
        return "is empty"
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return "is text, not a film"
    if b"ftyp" in head[:16] and b"moov" not in file.read_bytes():
        return "is cut short: its index is missing"
    said = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return f"is damaged or no film of a known kind ({said[-1][:80] if said else type(error).__name__})"
