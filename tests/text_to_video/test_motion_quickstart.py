"""The quickstart of text-to-video as shipped, trained whole and scored: minutes (`pytest -m slow`)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_quickstart_learns_to_move(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "t2x_core.cli.main", "fit", "text_to_video/quickstart", "--folder", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    scores = re.findall(r"score of 86 text-to-video samples: (.*)", done.stdout)[-1]
    print(re.search(r"trained .*", done.stdout)[0], scores)
    assert float(re.search(r"\bmotion ([\d.]+)", scores)[1]) >= 0.8
    assert list((tmp_path / "run" / "samples").glob("text-to-video_*.mp4"))
