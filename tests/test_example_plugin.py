"""A package of somebody else: installed by pip, trained, resumed and sampled through the command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

SOURCE = Path(__file__).parent / "example_plugin"
RECIPE = str(SOURCE / "class_to_image.yaml")
SHORT = (
    "backbone.width=32",
    "backbone.depth=1",
    "diffusion.sampler.steps=2",
    "trainer.global_batch=4",
    "trainer.threads=1",
    "logging.checkpoint_every=2",
    "logging.validate_every=2",
    "logging.samples=4",
    "logging.final_score_samples=4",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed the package, from a copy, because a build leaves files behind."""
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(SOURCE, folder / "source")
    install = ["install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder / "site")]
    subprocess.run([sys.executable, "-m", "pip", *install, str(folder / "source")], check=True, timeout=120)
    return folder / "site"


def t2x(site: Path, folder: Path, *arguments: str, code: int = 0) -> str:
    """What the command prints; `code` is what it must exit with."""
    done = subprocess.run(
        [sys.executable, "-m", "t2x_core.cli.main", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_it_is_listed_with_its_settings(site, tmp_path):
    rows = [line.split() for line in t2x(site, tmp_path, "plugins").splitlines()]
    assert ["class-to-image", "task", "t2x-class-to-image", "1.0", f"{site}/class_to_image/plugin.py"] in rows
    settings = t2x(site, tmp_path, "plugins", "class-to-image")
    assert "    # Height and width of an image, in pixels.\n    size: 16  # an integer, at least 8\n" in settings


def test_it_trains_goes_on_and_makes_images(site, tmp_path):
    assert "trained 2 steps" in t2x(site, tmp_path, "fit", RECIPE, *SHORT, "trainer.max_steps=2")
    (run,) = (tmp_path / "runs" / "class_to_image").iterdir()
    printed = t2x(site, tmp_path, "fit", RECIPE, *SHORT, "trainer.max_steps=4", "--resume", str(run))
    assert "score of 4 class-to-image samples: class" in printed
    assert "trained 4 steps" in printed
    assert len(list((run / "samples").glob("class-to-image_*.png"))) == 2
    t2x(site, tmp_path, "sample", str(run), "circle", "checks", "--num", "2", "--out", "x.png")
    assert Image.open(tmp_path / "x.png").width > 2 * 128
    wrong = t2x(site, tmp_path, "sample", str(run), "circel", code=2)
    assert wrong == 't2x: there is no class "circel"; did you mean "circle"?\n'


def test_a_mistake_in_its_block_is_found_without_torch(site, tmp_path):
    program = (
        "import sys; from t2x_core.cli.main import main\n"
        "print([main(['fit', sys.argv[1], f'tasks.class-to-image.size={size}']) for size in (4, 18)])\n"
        "print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", program, RECIPE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[2, 2]", "False"]
    assert done.stderr.splitlines() == [
        "t2x: command line: tasks.class-to-image.size must be at least 8, not 4",
        "t2x: command line: tasks.class-to-image.size: 18 pixels do not divide into tokens of 4 "
        "(codec 1 × backbone.patch_size 4); 16 and 20 do",
    ]


def test_it_takes_its_own_modules_and_public_ones_of_the_core():
    imported = {
        line.split()[1]
        for file in SOURCE.rglob("*.py")
        for line in file.read_text().splitlines()
        if line.startswith("from t2x_core")
    }
    allowed = {"data", "errors", "interfaces", "plugins", "recipe", "rendering", "types"}
    assert imported <= {"t2x_core", *(f"t2x_core.{name}" for name in allowed)}
