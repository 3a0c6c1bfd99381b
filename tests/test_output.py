"""Output whose reader has gone, or whose disk is full, ends nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import logging, sys
from rich.console import Console
from t2x_core.output import lasting_output
from t2x_core.terminal import SafeStreams
logging.basicConfig(filename=sys.argv[1])
with SafeStreams(), lasting_output():
    console = Console()
    for i in range(2000):
        print("a line of some length, again and again")
        console.print("and one of rich")
    sys.stdout.flush()
    open(sys.argv[1] + ".done", "w").close()
"""


@pytest.mark.parametrize("where", ["/dev/full", "a pipe"])
def test_the_work_goes_on_without_its_output_and_the_log_says_so_once(tmp_path, where):
    log = tmp_path / "log"
    command = [sys.executable, "-c", SCRIPT, str(log)]
    if where == "a pipe":
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.close()  # as `head` does
        error = process.stderr.read()  # type: ignore[union-attr]
        assert process.wait(120) == 0
    else:
        if not Path(where).exists():
            pytest.skip("there is no /dev/full here")
        with open(where, "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=120)
        error = done.stderr
        assert done.returncode == 0
    assert error == b""
    assert Path(f"{log}.done").exists()
    assert log.read_text().count("cannot be written any more") == 1
