"""Errors that are shown as one line, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

from t2x_core.terminal import printable

LONGEST = 1500
"""Characters of a message, at most: what it quotes may be of any size."""


class UserError(ValueError):
    """A mistake in a recipe, on the command line or in the user's data: what, where and what to do.

    `str()` is one line, "where: message; hint". `where` is "file:line", "command line" or None (no place to point at).
    `key` is for who knows a setting and not where it was written, such as a plugin: "data.size" of the block that it
    was given. Who knows the recipe turns it into a place (`Composed.error_location`).
    """

    def __init__(
        self, message: str, *, where: str | None = None, hint: str | None = None, key: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint
        self.key = key

    def __str__(self) -> str:
        text = f"{self.message}; {self.hint}" if self.hint else self.message
        return printable(f"{self.where}: {text}" if self.where else text, LONGEST)


Complain = Callable[[UserError], None]
"""Is told of a mistake in one of many rows or files: it raises it, or keeps it, and the others are read."""


def stop(error: UserError) -> None:
    """Raises it: the first mistake ends the reading."""
    raise error


class TrainingError(RuntimeError):
    """Training cannot go on, for a reason that lies in the data or the machine: one line, as of `UserError`."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(printable(f"{message}; {hint}" if hint else message, LONGEST))


class UnreadableError(Exception):
    """A sample cannot be read; who raises it has noted why. The core takes another sample of its bucket."""


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """'did you mean "x"?' for the candidate that looks most like `word`, whatever the case; "" if none does."""
    if len(word) > 200:  # comparing takes time that grows with the square of the length
        return ""
    by_lower_case = {candidate.lower(): candidate for candidate in candidates if len(candidate) <= 200}
    closest = difflib.get_close_matches(word.lower(), by_lower_case, n=1)
    return f'did you mean "{by_lower_case[closest[0]]}"?' if closest else ""
