"""Samples as images: a grid with captions, and files."""

from __future__ import annotations

import contextlib
import io
import math
import string
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from t2x_core.errors import UserError
from t2x_core.file_notes import note_options
from t2x_core.plain_files import write_whole
from t2x_core.types import RenderedSamples

MARGIN = 6
"""Between images, in pixels."""
LINES = 6
"""Of a caption, at most."""
INK, PAPER = (30, 30, 30), (250, 250, 250)
FALLBACKS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "arialuni.ttf", "msyh.ttc")
"""Fonts that know more scripts than Pillow's own; looked for where the system keeps its fonts."""

ANIMATED = (".gif", ".mp4", ".webp", ".apng")
"""Endings of formats that move."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def to_uint8(pixels: Tensor) -> Tensor:
    """Pixels (B, 3, F, H, W) in [-1, 1], clamped → (B, F, H, W, 3) uint8."""
    levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 4, 1).cpu()


def check_rendered(rendered: object) -> None:
    """TypeError or ValueError if what `Task.render` returned cannot be shown."""
    if not isinstance(rendered, RenderedSamples):
        raise TypeError(f"it must return RenderedSamples, not {type(rendered).__name__}")
    shown = {"frames": (rendered.frames, 4), "still": (rendered.still, 3)}
    for name, (value, axes) in shown.items():
        if value is None and name == "still":
            continue
        if not isinstance(value, Tensor) or value.dtype != torch.uint8 or value.ndim != axes or value.shape[-1] != 3:
            found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            wanted = "(frames, height, width, 3)" if name == "frames" else "(height, width, 3)"
            raise ValueError(f"{name} is {found.removeprefix('torch.')}, not uint8 {wanted}")
        if not value.numel():
            raise ValueError(f"{name} is empty")


def caption_grid(
    pixels: Tensor, captions: Sequence[str], columns: int | None = None, fps: float = 8.0
) -> RenderedSamples:
    """A grid of samples (B, 3, F, H, W) in [-1, 1], each with its caption below; F > 1 becomes an animation.

    Small images are enlarged to at least 128 pixels, by whole factors, without smoothing. A long caption is cut.
    `fps`: frames a second of the animation.
    """
    levels = to_uint8(pixels).numpy()
    count, frames, height, width = levels.shape[:4]
    columns = columns or math.ceil(math.sqrt(count))
    scale = max(1, math.ceil(128 / max(height, width)))
    height, width = height * scale, width * scale
    size = max(12, width // 18)  # of the letters
    line, font = size * 5 // 4, _font("".join(captions), size)
    texts = [_wrapped(caption, width, font) for caption in captions]
    rows = [texts[start : start + columns] for start in range(0, count, columns)]
    heights = [height + line * max(map(len, row)) + line // 2 + MARGIN for row in rows]
    sheets = []
    for frame in range(frames):
        sheet = Image.new("RGB", (columns * (width + MARGIN) + MARGIN, sum(heights) + MARGIN), PAPER)
        draw = ImageDraw.Draw(sheet)
        for i in range(count):
            row, column = divmod(i, columns)
            x, y = MARGIN + column * (width + MARGIN), MARGIN + sum(heights[:row])
            sheet.paste(Image.fromarray(levels[i, frame]).resize((width, height), Image.Resampling.NEAREST), (x, y))
            for k, text in enumerate(texts[i]):
                draw.text((x, y + height + k * line + 2), text, INK, font)
        sheets.append(torch.from_numpy(np.array(sheet)))
    return RenderedSamples(torch.stack(sheets), fps)


def _font(text: str, size: int) -> Font:
    """The font that has the most of the letters of `text`; Pillow's own, unless it lacks some."""
    letters = sorted(set(text) - set(string.printable))
    own: Font = ImageFont.load_default(size)
    if not letters:
        return own
    fonts = [own]
    for name in FALLBACKS:
        with contextlib.suppress(OSError):  # not on this system
            fonts.append(ImageFont.truetype(name, size))
    return min(fonts, key=lambda font: _missing(letters, font))


def _missing(letters: Sequence[str], font: Font) -> int:
    """How many of the letters a font shows as an empty box."""
    box = bytes(font.getmask("\U0010ffff"))
    return sum(bytes(font.getmask(letter)) == box for letter in letters)


def _wrapped(text: str, width: int, font: Font) -> list[str]:
    """Lines of at most `width` pixels, at most LINES of them; words that are too long are broken."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    if len(lines) <= LINES:
        return lines
    last = lines[LINES - 1]
    while last and font.getlength(last + "…") > width:
        last = last[:-1]
    return [*lines[: LINES - 1], last + "…"]


def rows(sheets: Sequence[Sequence[RenderedSamples]]) -> RenderedSamples:
    """One sheet of several: each inner sequence side by side as a row, the rows below one another."""

    def beside(pictures: Sequence[Tensor], axis: int) -> Tensor:
        """(frames, height, width, 3) each → joined along `axis`, on paper; a short one ends with its last frame."""
        shape = [max(picture.shape[i] for picture in pictures) for i in range(3)]
        joined = []
        for picture in pictures:
            count, height, width = picture.shape[:3]
            size = [shape[1], width] if axis == 2 else [height, shape[2]]
            sheet = torch.tensor(PAPER, dtype=torch.uint8).repeat(shape[0], *size, 1)
            sheet[:, :height, :width] = torch.cat([picture, picture[-1:].expand(shape[0] - count, -1, -1, -1)])
            joined.append(sheet)
        return torch.cat(joined, axis)

    def sheet(part: Callable[[RenderedSamples], Tensor]) -> Tensor:
        return beside([beside([part(one) for one in row], 2) for row in sheets], 1)

    still = None
    if all(one.still is not None for row in sheets for one in row):
        still = sheet(lambda one: one.still.unsqueeze(0))[0]  # type: ignore[union-attr]
    return RenderedSamples(sheet(lambda one: one.frames), sheets[0][0].fps, still)


def save(rendered: RenderedSamples, path: Path, note: str = "") -> Path:
    """Writes samples in the format of the path's ending; returns the path written.

    What only moves, and is to go into a format for still images, becomes a GIF beside it. MP4 is H.264, WebP without
    loss.

    Args:
        note: a text in the file's metadata, which `read_note` finds.
    """
    animated, moves = path.suffix.lower() in ANIMATED, len(rendered.frames) > 1
    if moves and rendered.still is None and not animated:
        path, animated = path.with_suffix(".gif"), True
    shown = rendered
    if moves and not animated and rendered.still is not None:
        shown = RenderedSamples(rendered.still.unsqueeze(0))
    try:
        # Encoded in memory: Pillow leaves a JPEG, BMP or TIFF cut short on a full disk without an error.
        ending = path.suffix.lower()
        write_whole(path, _mp4(shown, note) if ending == ".mp4" else _encoded(shown, ending, note))
    except (OSError, ValueError, KeyError) as error:  # ValueError: no format has this ending; KeyError: it is only read
        raise UserError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    return path


def save_all(rendered: RenderedSamples, path: Path) -> list[Path]:
    """Writes all that there is to see: `path`.png for what is still, `path`.gif and `path`.mp4 for what moves."""
    moves = len(rendered.frames) > 1
    endings = [".png"] if not moves or rendered.still is not None else []
    endings += [".gif", ".mp4"] if moves else []
    return [save(rendered, path.with_name(path.name + ending)) for ending in endings]


def encode(rendered: RenderedSamples) -> bytes:
    """A still image as PNG, an animation as GIF."""
    return _encoded(rendered, ".gif" if len(rendered.frames) > 1 else ".png")


def _encoded(rendered: RenderedSamples, ending: str, note: str = "") -> bytes:
    first, *others = (Image.fromarray(frame.numpy()) for frame in rendered.frames)
    options: dict[str, Any] = {}
    if others:
        options = {"save_all": True, "append_images": others, "duration": round(1000 / rendered.fps), "loop": 0}
    file = io.BytesIO()
    Image.init()
    if ending not in Image.EXTENSION:
        raise ValueError(f"unknown file extension: {ending}")
    kind = Image.EXTENSION[ending]
    if kind == "WEBP":
        options["lossless"] = True
    first.save(file, kind, **options, **note_options(kind, note))
    return file.getvalue()


def _mp4(rendered: RenderedSamples, note: str = "") -> bytes:
    """H.264 takes even sides only: the last row or column is repeated."""
    import av  # only here: it takes a while to load

    frames = rendered.frames.numpy()
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        if note:
            container.metadata["comment"] = note
        stream = container.add_stream("libx264", rate=Fraction(rendered.fps).limit_denominator(1000))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "16"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
