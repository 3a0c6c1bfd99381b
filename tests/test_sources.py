"""Data sources: one of another package stands in a task's block by its name; what does not fit is told."""

from __future__ import annotations

import json

import pytest

from t2x_core.cli.main import main
from tests.conftest import TINY_MODEL
from tests.package_path import add_package

DATA = "tasks.text-to-image.data"
NO_SHAPES = f"{DATA}.shapes=null"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of the modules of a new package that brings the source "my-files"."""
    monkeypatch.chdir(tmp_path)
    main(["new-plugin", "my-files", "--kind", "source"])
    add_package(tmp_path / "my-files", monkeypatch)
    return tmp_path / "my-files" / "my_files"


def fit(*settings: str) -> int:
    return main(["fit", "quickstart", *TINY_MODEL, *settings])


def test_a_source_of_another_package_is_named_in_a_recipe(package, capsys):
    assert fit(NO_SHAPES, f"{DATA}.my-files={{size: 16, count: 40}}", "--dry-run") == 0
    assert "40 of 1×16×32" in capsys.readouterr().out
    main(["show", "quickstart", NO_SHAPES, f"{DATA}.my-files={{count: 9}}"])
    assert "    data:\n      my-files:\n        size: 16\n        count: 9\n" in capsys.readouterr().out
    main(["show", "--schema"])
    tasks = json.loads(capsys.readouterr().out)["properties"]["tasks"]["anyOf"][0]["properties"]
    sources = {name: task["anyOf"][0]["properties"]["data"]["anyOf"][0]["properties"] for name, task in tasks.items()}
    assert sources["text-to-image"].keys() == {"shapes", "images", "my-files"}
    assert sources["text-to-video"].keys() == {"moving-shapes", "clips"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            [NO_SHAPES, f"{DATA}.my-filse={{}}"],
            'no installed plugin brings the source "my-filse"; did you mean "my-files"?',
        ),
        ([NO_SHAPES, f"{DATA}.bytes={{}}"], '"bytes" is a text encoder, not a source'),
        (
            [NO_SHAPES, f"{DATA}.clips={{fps: 8}}"],
            f'{DATA}: the source "clips" does not fit the task, whose sources have',
        ),
        (
            [f"{DATA}.my-files={{}}"],
            f"{DATA}: there are both shapes and my-files; write shapes: null, or my-files: null",
        ),
        ([NO_SHAPES], f"{DATA} names no source"),
        ([NO_SHAPES, f"{DATA}.my-files.cuont=9"], f'unknown key "{DATA}.my-files.cuont"; did you mean "count"?'),
        ([NO_SHAPES, f"{DATA}.my-files.size=18"], f"command line: {DATA}.my-files.size: 18 pixels do not divide into"),
    ],
)
def test_what_does_not_fit_is_told(settings, message, package, capsys):
    assert fit(*settings) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_source_that_fails_is_named_with_its_package(package, capsys):
    plugin = package / "plugin.py"
    plugin.write_text(plugin.read_text().replace("angle = 6 *", "angle = 1 / 0 *"))
    assert fit(NO_SHAPES, f"{DATA}.my-files={{count: 40}}") == 2
    error = capsys.readouterr().err
    assert 'plugin "my-files" of t2x-my-files 0.1.0: val_conditions failed: ZeroDivisionError' in error
    assert "my_files/plugin.py:" in error


def test_the_keys_that_a_source_names_are_those_of_its_own_block(package, capsys):
    plugin = package / "plugin.py"
    setup = """    def setup(self, stage):
        raise UserError("is no good", key="count")

    def train_source"""
    text = plugin.read_text().replace("    def train_source", setup)
    plugin.write_text(text.replace("import torch\n", "import torch\nfrom t2x_core.errors import UserError\n"))
    assert fit(NO_SHAPES, f"{DATA}.my-files={{count: 40}}") == 2
    assert f"command line: {DATA}.my-files.count: is no good" in capsys.readouterr().err
