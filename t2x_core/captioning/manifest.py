"""The manifest that captions are written to, line by line; what is in it after a kill stays, and is not made again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from t2x_core.errors import UserError
from t2x_core.wording import quoted

BY, PROMPT = "captioned_by", "prompt"
"""Which model made the captions of a row, null: they were there before; and what it was asked."""


class CaptionManifest:
    """JSON lines {"path", "caption", "captioned_by", "prompt"}.

    Raises UserError if the file is not one of these, or was begun with another model or prompt.
    """

    def __init__(self, file: Path, model: str, prompt: str) -> None:
        self.file, self.model, self.prompt = file, model, prompt
        self.done: set[str] = set()
        """The paths that it has."""
        try:
            self._stream: IO[bytes] = file.open("a+b")
            self._stream.seek(0)
            whole = 0
            for number, line in enumerate(self._stream, 1):
                if not line.endswith(b"\n"):  # cut by a kill
                    break
                whole += len(line)
                self._take(line, f"{file}:{number}")
            self._stream.truncate(whole)
        except OSError as error:
            raise UserError(f"{file} cannot be written: {error.strerror}") from error

    def _take(self, line: bytes, where: str) -> None:
        hint = "choose another --out"
        try:
            row = json.loads(line)
            path, by, asked = row["path"], row[BY], row[PROMPT]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError("this is no line that captioning wrote", where=where, hint=hint) from error
        if by is not None and (by, asked) != (self.model, self.prompt):
            made = f"{quoted(by)}, asked {quoted(asked)}"
            raise UserError(
                f"this was captioned by {made}: not the model and the prompt of now", where=where, hint=hint
            )
        self.done.add(path)

    def add(self, rows: Iterable[tuple[str, list[str], bool]]) -> None:
        """Rows (path, captions, whether the model made them); they are on their way to the disk afterwards."""
        text = ""
        for path, captions, made in rows:
            row: dict[str, Any] = {"path": path, "caption": captions}
            row |= {BY: self.model, PROMPT: self.prompt} if made else {BY: None, PROMPT: None}
            text += json.dumps(row, ensure_ascii=False) + "\n"
            self.done.add(path)
        self._stream.write(text.encode())
        self._stream.flush()

    def close(self) -> None:
        """Waits until all is on the disk."""
        os.fsync(self._stream.fileno())
        self._stream.close()
