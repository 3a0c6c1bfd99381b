"""`t2x new-plugin`: what it writes installs, passes the kit, trains and tests; and what it refuses."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from t2x_core.cli.main import main
from t2x_core.testing.run import check, checks_of
from tests.conftest import TINY_MODEL
from tests.package_path import add_package

KINDS = ["task", "codec", "text-encoder", "source"]


@pytest.mark.parametrize("kind", ["task", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])])
def test_what_it_writes_passes_the_kit(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new-plugin", "my-thing", "--kind", kind]) == 0
    assert "next: pip install -e my-thing && t2x check-plugin my-thing\n" in capsys.readouterr().out
    add_package(tmp_path / "my-thing", monkeypatch)
    results = list(check(checks_of("my-thing", [])))
    assert len(results) > 12
    assert [result for result in results if result.problem] == []


@pytest.mark.parametrize("kind", KINDS)
def test_its_recipe_trains(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["new-plugin", "my-thing", "--kind", kind])
    add_package(tmp_path / "my-thing", monkeypatch)
    tiny = [text for text in TINY_MODEL if kind != "text-encoder" or not text.startswith("text_encoders")]
    assert main(["fit", "my-thing/my_thing.yaml", *tiny, "--folder", "run"]) == 0
    assert (tmp_path / "run" / "checkpoints" / "step_00000002").is_dir()


def test_pip_installs_it_and_its_own_tests_pass(tmp_path):
    def python(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
        done = subprocess.run(
            [sys.executable, "-m", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    python("t2x_core.cli.main", "new-plugin", "my-thing", "--kind", "codec")
    python("pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", "site", "./my-thing")
    assert "my-thing" in python("t2x_core.cli.main", "plugins")
    assert " passed" in python("pytest", "-q", "-p", "no:cacheprovider", "my-thing/tests")


def test_a_task_takes_25_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["new-plugin", "my-thing"])
    tree = ast.parse((tmp_path / "my-thing" / "my_thing" / "plugin.py").read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            del body[0]  # the docstring
    assert len([line for line in ast.unparse(tree).splitlines() if line.strip()]) <= 25


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My-Task", "is no name of a plugin"),
        ("my_task", "is no name of a plugin"),
        ("-my", "are required: NAME"),
        ("my--task", "is no name of a plugin"),
        ("my-", "is no name of a plugin"),
        ("1st", "is no name of a plugin"),
        ("", "is no name of a plugin"),
        ("../up", "is no name of a plugin"),
        ("/tmp/up", "is no name of a plugin"),
        ("a b", "is no name of a plugin"),
        ("a\nb", "is no name of a plugin"),
        ("a\x1b[31mb", "is no name of a plugin"),
        ("größe", "is no name of a plugin"),
        ("x" * 41, "is no name of a plugin"),
        ("null", "is a word of YAML"),
        ("class", "is a word of Python"),
        ("match", "is a word of Python"),
        ("json", "is a module of Python"),
        ("con", "is no name of a file on Windows"),
        ("torch", 'there is a package "torch" already'),
        ("t2x-core", 'there is a package "t2x_core" already'),
        ("tests", "is taken"),
        ("task", "gives its class a name, Task, that is one of t2x"),
        ("text-to-image", "is a plugin of t2x "),
    ],
)
def test_a_name_that_cannot_be_is_one_line(name, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new-plugin", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("t2x: command line: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("my-thing").mkdir()
    Path("link").symlink_to("nowhere")
    for arguments in (["my-thing"], ["my-thing", "--folder", "link"]):
        assert main(["new-plugin", *arguments]) == 2
        assert "is there already; nothing is overwritten" in capsys.readouterr().err
    assert list(Path("my-thing").iterdir()) == []
    Path("file").touch()
    assert main(["new-plugin", "my-thing", "--folder", "file/inside"]) == 2
    assert "cannot make file/inside: " in capsys.readouterr().err
