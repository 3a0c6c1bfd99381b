"""Where messages go: the terminal, and the run's log file."""

from __future__ import annotations

import logging
from pathlib import Path

from rich.console import Console


class TerminalHandler(logging.Handler):
    """Prints messages above the progress bar that is drawn on the same console."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(self.format(record), markup=False, soft_wrap=True)


def start_log(file: Path | None, quiet: bool = False) -> Console:
    """Sends the messages of the logger "t2x" to the terminal and to the end of `file`, if any; returns the terminal.

    `quiet` sends them nowhere, and makes the terminal one that shows nothing: for all ranks but the first.
    """
    console = Console(highlight=False, soft_wrap=True, quiet=quiet)
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
    to_file = logging.FileHandler(file)
    to_file.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.addHandler(to_file)
    return console
