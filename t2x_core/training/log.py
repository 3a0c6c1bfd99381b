"""Where messages go: the terminal, and the run's log file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from t2x_core.terminal import printable_lines


class PlainConsole(Console):
    """A console to which text is text: no markup, no emoji codes, nothing that a terminal would obey."""

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
        self.console.print(self.format(record), soft_wrap=True)


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
    to_file = logging.FileHandler(file, encoding="utf-8", errors="t2x.plainly")
    to_file.setFormatter(PlainFormatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.addHandler(to_file)
    return console
