"""Files of a data set that cannot be read: named, counted, and replaced by others."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from t2x_core.errors import UserError
from t2x_core.interfaces import DataContext
from t2x_core.quarantine import FILE_NAME
from t2x_core.wording import shorten


class Damage:
    """Keeps account of the files of a source that cannot be read, and stops the run when there are too many.

    Args:
        context: the task that they are for, and where those that cannot be read are named.
        total: files that there are.
        limit: share of them above which training stops.
        what: what they are, "images" say.
    """

    def __init__(self, context: DataContext, total: int, limit: float, what: str) -> None:
        self.task, self.quarantine = context.task, context.quarantine
        self.total, self.limit, self.what = total, limit, what
        self.others: set[str] = set()
        """Names that the task has in the quarantine for other things, which have a limit of their own."""

    def note(self, files: Sequence[tuple[str, str]]) -> None:
        """Names files (name, what is wrong). Raises UserError if, with all before, they are too many."""
        self.quarantine.note_all(self.task, files)
        if self.quarantine.number(self.task) <= self.limit * self.total:
            return
        named = {name: why for name, why in self.quarantine.named(self.task).items() if name not in self.others}
        if len(named) <= self.limit * self.total:
            return
        if self.quarantine.file is None:  # no run folder yet
            self.quarantine.write_to(Path(tempfile.mkdtemp(prefix="t2x_")) / FILE_NAME)
        first = "; ".join(f"{shorten(file)} {shorten(reason)}" for file, reason in list(named.items())[:5])
        more = f"; … (all in {self.quarantine.file})" if len(named) > 5 else ""
        raise UserError(
            f"{len(named)} of {self.total} {self.what} cannot be read, more than a share of {self.limit:g}: "
            f"{first}{more}",
            hint="mend or remove them, or raise max_bad_fraction",
        )
