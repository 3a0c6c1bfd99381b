"""Samples as pictures: a grid with captions, and files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from t2x_core.errors import UserError
from t2x_core.types import RenderedSamples

MARGIN, LINE = 6, 15  # pixels
INK, PAPER = (30, 30, 30), (250, 250, 250)


def to_uint8(pixels: Tensor) -> Tensor:
    """Pixels (B, 3, F, H, W) in [-1, 1], clamped → (B, F, H, W, 3) uint8."""
    levels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 4, 1).cpu()


def caption_grid(pixels: Tensor, captions: Sequence[str], columns: int | None = None) -> RenderedSamples:
    """A grid of samples (B, 3, F, H, W) in [-1, 1], each with its caption below; F > 1 becomes an animation.

    Small pictures are enlarged to at least 128 pixels, by whole factors, without smoothing.
    """
    levels = to_uint8(pixels).numpy()
    count, frames, height, width = levels.shape[:4]
    columns = columns or math.ceil(math.sqrt(count))
    scale = max(1, math.ceil(128 / max(height, width)))
    height, width = height * scale, width * scale
    font = ImageFont.load_default(12)
    texts = [_wrapped(caption, width, font) for caption in captions]
    lines = max(map(len, texts))
    cell_w, cell_h = width + MARGIN, height + lines * LINE + MARGIN
    size = (columns * cell_w + MARGIN, math.ceil(count / columns) * cell_h + MARGIN)
    sheets = []
    for frame in range(frames):
        sheet = Image.new("RGB", size, PAPER)
        draw = ImageDraw.Draw(sheet)
        for i in range(count):
            x, y = MARGIN + (i % columns) * cell_w, MARGIN + (i // columns) * cell_h
            sheet.paste(Image.fromarray(levels[i, frame]).resize((width, height), Image.Resampling.NEAREST), (x, y))
            for k, text in enumerate(texts[i]):
                draw.text((x, y + height + k * LINE), text, INK, font)
        sheets.append(torch.from_numpy(np.array(sheet)))
    return RenderedSamples(torch.stack(sheets))


def _wrapped(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def save(rendered: RenderedSamples, path: Path) -> Path:
    """Writes a still picture in the format of the path's ending, an animation as GIF; returns the path written."""
    sheets = [Image.fromarray(frame.numpy()) for frame in rendered.frames]
    path = path.with_suffix(".gif") if len(sheets) > 1 else path
    animated: dict[str, Any] = {
        "save_all": True,
        "append_images": sheets[1:],
        "duration": round(1000 / rendered.fps),
        "loop": 0,
    }
    try:
        sheets[0].save(path, **(animated if len(sheets) > 1 else {}))
    except (OSError, ValueError) as error:  # ValueError: no format has this ending
        raise UserError(f"cannot write {path}: {error}") from error
    return path
