"""The house rules of imports (docs/architecture.md), kept by import-linter."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_imports_run_one_way():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_line_starts_without_anything_heavy():
    code = (
        "import sys; from t2x_core.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'lightning', 'omegaconf', 'numpy', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_mistake_in_the_core_of_a_recipe_is_found_before_torch_is_imported():
    code = (
        "import sys; from t2x_core.cli.main import main\n"
        "code = main(['fit', 'quickstart', 'trainer.max_step=3'])\n"
        "print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
    assert done.stderr == 't2x: command line: unknown key "trainer.max_step"; did you mean "max_steps"?\n'
