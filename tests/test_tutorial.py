"""docs/tutorial.md, run as it is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "tutorial.md").read_text()
EXAMPLE = ROOT / "docs" / "examples" / "image_to_video"


class Block(NamedTuple):
    """A piece of the page in a fence."""

    file: str
    """Where it stands; "" = it is run."""
    language: str
    text: str


def blocks() -> Iterator[Block]:
    for found in re.finditer(r"(?:In `([^`]+)`:\n\n)?^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        yield Block(found[1] or "", found[2], found[3])


def test_the_files_at_the_end_are_those_of_the_example():
    last = {block.file: block.text for block in blocks() if block.file}
    assert len(last) == 4
    for file, text in last.items():
        assert text == (EXAMPLE / file).read_text(), file


def environment(folder: Path) -> dict[str, str]:
    """A virtual environment of its own that sees the packages of this one, and its commands."""
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "ours.pth").write_text(
        "".join(f"import site; site.addsitedir({p!r})\n" for p in sys.path if "site-packages" in p)
    )
    python = folder / "bin" / "python"
    for name, module in (("pip", "pip"), ("t2x", "t2x_core.cli.main")):
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {python} -m {module} "$@"\n')
        script.chmod(0o755)
    options = {"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **options, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.slow
def test_it_runs_as_printed(tmp_path):
    variables, folder = environment(tmp_path / "venv"), tmp_path
    for block in blocks():
        if block.file:
            (folder / block.file).write_text(block.text)
            continue
        shell = block.text if block.language == "sh" else f"python - <<'END'\n{block.text}END\n"
        done = subprocess.run(["bash", "-ec", shell], cwd=folder, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        for line in block.text.splitlines():
            if line.startswith("cd "):
                folder = folder / line.removeprefix("cd ")
    assert (folder / "red.gif").stat().st_size > 1000
    assert (folder / "first.png").is_file()
    scores = re.findall(r"first_frame (\d\.\d\d)", (folder / "runs" / "first" / "log.txt").read_text())
    assert float(scores[-1]) > 0.3  # 0.51 was measured; the frames of other videos have -0.7
