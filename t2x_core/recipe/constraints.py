"""What a schema may say about a field beyond its type, as `Annotated` metadata."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Final


class Constraint(ABC):
    """A condition on a value of the right type: `size: Annotated[int, Range(min=1)]`."""

    @abstractmethod
    def requirement(self, value: Any) -> str | None:
        """What the value must be, as in "at least 1"; None if it is."""

    @abstractmethod
    def __str__(self) -> str:
        """All that it asks for, as in "at least 0, below 1"."""


@dataclass(frozen=True, kw_only=True)
class Range(Constraint):
    """Bounds of a number: `min` and `max` are allowed themselves, `above` and `below` are not."""

    min: float | None = None
    max: float | None = None
    above: float | None = None
    below: float | None = None

    def requirement(self, value: float) -> str | None:
        if self.min is not None and value < self.min:
            return f"at least {self.min}"
        if self.max is not None and value > self.max:
            return f"at most {self.max}"
        if self.above is not None and value <= self.above:
            return f"above {self.above}"
        if self.below is not None and value >= self.below:
            return f"below {self.below}"
        return None

    def __str__(self) -> str:
        bounds = {"at least": self.min, "at most": self.max, "above": self.above, "below": self.below}
        return ", ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)


class _FromCurrentFolder:
    """See FROM_CURRENT_FOLDER."""


class _PathOrName:
    """See PATH_OR_NAME."""


PATH_OR_NAME: Final = _PathOrName()
"""Marks a text that names a file or a folder, or else something by name: `Annotated[str, PATH_OR_NAME]`. A relative
path is relative to the recipe's file, like any other, if there is something."""
FROM_CURRENT_FOLDER: Final = _FromCurrentFolder()
"""Marks a Path that is kept as written, even in a recipe: `Annotated[Path, FROM_CURRENT_FOLDER]`. It is for outputs."""
