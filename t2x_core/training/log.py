"""Where messages go: the terminal, and the run's log file."""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.text import Text

from t2x_core.errors import UserError
from t2x_core.terminal import printable_lines


class PlainConsole(Console):
    """A console to which text is text: no markup, no emoji codes, nothing that a terminal would obey."""

    @property
    def file(self) -> IO[str]:
        """What rich writes to. While it draws a bar, it takes one wrapper off less, and ours would escape the bar."""
        found = super().file
        return getattr(found, "rich_proxied_file", found)

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def print(self, *objects: Any, soft_wrap: bool | None = True, **options: Any) -> None:
        """As rich's, but a line is left whole: one that is to be copied may not be broken."""
        super().print(*objects, soft_wrap=soft_wrap, **options)

    def render_str(self, text: str, **_: Any) -> Text:
        return Text(printable_lines(text))


class PlainFormatter(logging.Formatter):
    """Messages as they may be printed, in a file that somebody prints, too."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


class TerminalHandler(logging.Handler):
    """Prints messages above the progress bar that is drawn on the same console."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError, ValueError, RuntimeError):  # RuntimeError: a signal came while something was printed
            self.console.print(self.format(record), soft_wrap=True)


class LogFile(logging.FileHandler):
    """The log of a run. A disk that is full is said once, on the terminal; later lines are tried all the same."""

    def __init__(self, file: Path, console: Console) -> None:
        super().__init__(file, encoding="utf-8", errors="t2x.plainly")
        self.console, self._said = console, False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        if not self._said:
            self._said = True
            self.console.print(f"{self.baseFilename} cannot be written: {sys.exc_info()[1]}")

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def start_log(file: Path | None, quiet: bool = False) -> Console:
    """Sends the messages of the logger "t2x" to the terminal and to the end of `file`, if any; returns the terminal.

    `quiet` sends them nowhere, and makes the terminal one that shows nothing: for all ranks but the first.
    """
    console = PlainConsole(highlight=False, soft_wrap=True, quiet=quiet)
    log = logging.getLogger("t2x")
    log.setLevel(logging.INFO)
    log.propagate = False
    for old in list(log.handlers):
        log.removeHandler(old)
        old.close()
    if quiet:
        log.addHandler(logging.NullHandler())
        return console
    log.addHandler(TerminalHandler(console))
    if file is None:
        return console
    try:
        to_file = LogFile(file, console)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from error
    to_file.setFormatter(PlainFormatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.addHandler(to_file)
    return console


def silence_lightning() -> None:
    """Its greetings, and advice that does not hold: the sampler is exact on resume, small data needs no workers."""
    for logger in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*resuming from a checkpoint that ended before.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*FSDP2-wrapped module .* returned a view tensor.*",
    ):
        warnings.filterwarnings("ignore", message)
