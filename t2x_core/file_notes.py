"""A text in the metadata of an image or a video: how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from t2x_core.errors import UserError

KEY = "t2x"
"""Of the text chunk of a PNG."""
DESCRIPTION = 0x010E
"""Exif's ImageDescription."""
LONGEST_EXIF = 60_000
"""Bytes: a JPEG's Exif block ends at 65,533."""


def note_options(kind: str, note: str) -> dict[str, Any]:
    """What Pillow's `save` is told to keep a text (ASCII) in a file of that format: the text chunk `t2x` of a PNG, the
    comment of a GIF, Exif's ImageDescription of JPEG, WebP, TIFF and AVIF. Other formats keep none."""
    if not note:
        return {}
    if kind == "PNG":
        chunk = PngImagePlugin.PngInfo()
        chunk.add_itxt(KEY, note)
        return {"pnginfo": chunk}
    if kind == "GIF":
        return {"comment": note.encode()}
    if kind in ("JPEG", "WEBP", "TIFF", "AVIF") and len(note) <= LONGEST_EXIF:
        exif = Image.Exif()
        exif[DESCRIPTION] = note
        return {"exif": exif}
    return {}


def read_note(file: Path) -> str | None:
    """The text that a file was written with; None if it has none.

    Raises:
        UserError: it cannot be read, or is neither an image nor a video.
    """
    if file.exists() and not file.is_file():  # a pipe would be waited for
        raise UserError(f"cannot read {file}: it is no file")
    try:
        if file.suffix.lower() == ".mp4":
            import av  # only here: it takes a while to load

            with av.open(str(file)) as container:
                return container.metadata.get("comment")
        with Image.open(file) as image:
            found = image.info.get(KEY) or image.info.get("comment") or image.getexif().get(DESCRIPTION)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # av's errors are among them
        raise UserError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else found
