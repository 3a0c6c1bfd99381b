"""Mistakes, made through the command line: one line each, exit code 2, and none that needs torch if it need not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from t2x_core.cli.main import main
from tests.cli import mistakes
from tests.cli.mistakes import RUN, SECTIONS, VALID, Mistake

ROOT = Path(__file__).parents[2]
ALL = [mistake for section in SECTIONS.values() for mistake in section]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "mine.yaml").write_text(VALID)
        assert main(["fit", "mine.yaml", "--folder", RUN]) == 0
    return folder


@pytest.mark.parametrize("mistake", ALL, ids=lambda mistake: mistake.what)
def test_a_mistake_gets_one_line(mistake: Mistake, trained: Path, tmp_path: Path) -> None:
    if "GPU" in mistake.what and torch.cuda.is_available():
        pytest.skip("there is one")
    assert mistakes.make(mistake, trained, tmp_path / "here") == mistake.says


def test_what_a_recipe_tells_is_told_without_torch(trained: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.cli.mistakes import SECTIONS, make\n"
        "quick = [mistake for section in SECTIONS.values() for mistake in section if not mistake.slow]\n"
        "for i, mistake in enumerate(quick): make(mistake, Path(sys.argv[1]), Path(sys.argv[2], str(i)))\n"
        "print(len(quick), [heavy for heavy in ('torch', 'lightning', 'numpy') if heavy in sys.modules])"
    )
    command = [sys.executable, "-c", program, str(trained), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{sum(not mistake.slow for mistake in ALL)} []\n"


def test_show_of_a_good_recipe_takes_no_torch() -> None:
    program = (
        "import sys; from t2x_core.cli.main import main; main(['show', 'quickstart']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("seed: 0\n")
    assert done.stdout.endswith("\nFalse\n")


def test_there_are_enough_of_them() -> None:
    assert len({mistake.says for mistake in ALL}) >= 60
    assert len({mistake.what for mistake in ALL}) >= 60


def test_the_page_of_mistakes_is_up_to_date() -> None:
    page = (ROOT / "docs" / "mistakes.md").read_text()
    assert page == mistakes.page(), "python -m tests.cli.mistakes > docs/mistakes.md"
