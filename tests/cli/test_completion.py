"""What a shell is offered when somebody presses Tab."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("argcomplete")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("t2x fi", {"fit"}),
        ("t2x check", {"check-plugin"}),
        ("t2x fit quicks", {"quickstart"}),
        ("t2x fit text_to_video/q", {"text_to_video/quickstart"}),
        ("t2x fit quickstart --dry", {"--dry-run"}),
        ("t2x sample mine --inp", {"--input"}),
        ("t2x plugins text-to-i", {"text-to-image"}),
        ("t2x new-plugin mine --kind te", {"text-encoder"}),
    ],
)
def test_commands_options_recipes_and_plugins_are_offered(line: str, offered: set[str], tmp_path: Path) -> None:
    asked = {
        **{"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"},
        **{"_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "out")},
    }
    command = [sys.executable, "-m", "t2x_core.cli.main"]
    subprocess.run(command, env={**os.environ, **asked}, cwd=tmp_path, capture_output=True, text=True)
    assert {word.strip() for word in (tmp_path / "out").read_text().splitlines()} == offered


def test_it_is_not_imported_unless_a_shell_asks() -> None:
    code = "import sys; from t2x_core.cli.main import parse; parse(['plugins']); print('argcomplete' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
