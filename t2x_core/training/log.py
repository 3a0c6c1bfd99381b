"""Where messages go: the terminal, and the run's log file."""

from __future__ import annotations

import logging
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler


def start_log(file: Path) -> Console:
    """Sends the messages of the logger "t2x" to the terminal and to the end of `file`; returns the terminal."""
    console = Console(highlight=False, soft_wrap=True)
    log = logging.getLogger("t2x")
    log.setLevel(logging.INFO)
    log.propagate = False
    for old in list(log.handlers):
        log.removeHandler(old)
    terminal = RichHandler(console=console, show_time=False, show_level=False, show_path=False, highlighter=None)
    to_file = logging.FileHandler(file)
    to_file.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.addHandler(terminal)
    log.addHandler(to_file)
    return console
