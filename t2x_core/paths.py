"""Paths as people write them."""

from __future__ import annotations

import os
from pathlib import Path

from t2x_core.errors import UserError
from t2x_core.terminal import printable

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""In bytes, on the file systems in use."""


def user_path(text: str | Path) -> Path:
    """The path that somebody wrote: `~` and `~name` at its beginning are home folders, as in a shell.

    Raises UserError for what no file system takes, so that whoever looks for the file need not.
    """
    written = str(text)
    if "\0" in written:
        raise UserError(f'"{printable(written, 60)}" is no path: it holds the character NUL')
    try:
        path = Path(written).expanduser()
        size, longest = len(os.fsencode(path)), max((len(os.fsencode(part)) for part in path.parts), default=0)
    except RuntimeError as error:
        user = printable(written.split("/")[0], 60)
        raise UserError(f'there is no user "{user.removeprefix("~")}" whose home {user} could be') from error
    except UnicodeEncodeError as error:
        raise UserError(f'"{printable(written, 60)}" is no path: it holds half of a character') from error
    if longest > LONGEST_NAME or size > LONGEST_PATH:
        raise UserError(
            f'"{printable(written, 60)}" is no path: it is too long',
            hint=f"a name has at most {LONGEST_NAME} bytes, a path {LONGEST_PATH}",
        )
    return path


def home_as_tilde(path: str | Path) -> str:
    """The path as `user_path` reads it, without the name of whose home it is in."""
    text = str(path)
    try:
        home = str(Path.home())
    except RuntimeError:  # there is none
        return text
    return f"~{text[len(home) :]}" if text == home or text.startswith(home.rstrip("/") + os.sep) else text


def cache_folder() -> Path | None:
    """Where what is known of files is remembered; None if the user has no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t2x"
    except RuntimeError:
        return None
