"""Real videos of several kinds, good and damaged, made with real encoders, for tests."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CODECS = {".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9"}
STEP = 8
"""The grey level of a frame is STEP times its number, at the left; so a frame says which one it is."""


def frame(number: int, height: int, width: int) -> np.ndarray:
    """A frame (height, width, 3) that tells its number: grey at the left, red at the right, green below."""
    pixels = np.full((height, width, 3), min(255, STEP * number), np.uint8)
    pixels[: height // 2, width // 2 :] = (220, 20, 20)
    pixels[height // 2 :, width // 2 :] = (20, 200, 20)
    return pixels


def number_of(image: np.ndarray) -> int:
    """Which frame an image (h, w, 3) uint8 is."""
    h, w = image.shape[:2]
    return round(float(image[h // 4 : 3 * h // 4, w // 8 : 3 * w // 8].mean()) / STEP)


def write_video(
    file: Path,
    frames: int = 24,
    fps: float = 12,
    height: int = 48,
    width: int = 64,
    times: Sequence[float] | None = None,
) -> Path:
    """A video; `times`: when each frame is shown, in seconds, for a variable frame rate."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream(CODECS[file.suffix], rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options = (
            {"crf": "12"} if CODECS[file.suffix] == "libx264" else {"crf": "20", "b:v": "0", "deadline": "realtime"}
        )
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(frames):
            image = av.VideoFrame.from_ndarray(frame(i, height, width), format="rgb24")
            if times is not None:
                image.pts, image.time_base = round(1000 * times[i]), Fraction(1, 1000)
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    return file


def turn(file: Path) -> None:
    """Writes into an MP4 that its frames are to be shown turned by 90 degrees, as telephones do."""
    data = bytearray(file.read_bytes())
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30)
    file.write_bytes(data)


def write_damaged(folder: Path) -> dict[str, str]:
    """Five videos that cannot be read: name → how the reason for it begins."""
    whole = write_video(folder / "cut.mp4", frames=40).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "letter.mp4").write_text("This is a letter, and no video.\n")
    rng = np.random.default_rng(0)
    (folder / "noise.webm").write_bytes(rng.bytes(20_000))
    broken = bytearray(write_video(folder / "broken.mp4", frames=40).read_bytes())
    start = broken.index(b"mdat") + 8
    broken[start : broken.index(b"moov") - 8] = bytes(broken.index(b"moov") - 8 - start)
    (folder / "broken.mp4").write_bytes(broken)
    return {
        "cut.mp4": "is cut short",
        "empty.mp4": "is empty",
        "letter.mp4": "is text, not a video",
        "noise.webm": "is damaged or no video of a known kind",
        "broken.mp4": "is damaged",
    }
