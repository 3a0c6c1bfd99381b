"""`t2x bench start` measures what it says."""

from __future__ import annotations

import json

import pytest

from t2x_core.bench.start import write_images
from t2x_core.cli.main import main
from t2x_core.data.decode import SUFFIXES
from t2x_core.data.manifest import Columns, read_manifest
from t2x_core.data.shards import list_shards

COLUMNS = Columns("path", ["caption"], ("height", "width"))


def test_both_kinds_hold_the_same_images(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for kind in ("tar", "manifest"):
        write_images(kind, tmp_path / kind, 50, 3)
    shards = list_shards(tmp_path / "tar", COLUMNS, SUFFIXES)
    files = read_manifest(tmp_path / "manifest" / "list.jsonl", tmp_path / "manifest", COLUMNS)
    assert [(file.captions, file.size) for file in shards.files] == [(file.captions, file.size) for file in files.files]
    assert len(files.files) == 50
    assert not shards.damaged


@pytest.mark.slow
def test_the_second_start_is_faster_and_memory_is_what_the_system_says(tmp_path, capsys):
    file = tmp_path / "start.json"
    assert main(["bench", "start", "--entries", "20000", "--parts", "20", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["second"]["data"] < found["first"]["data"] / 4
    assert found["one more"]["data"] < found["first"]["data"] / 2
    assert 20 < found["base"]["worker"] < found["base"]["main"] < 10_000
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_numbers_that_cannot_be_are_refused(capsys):
    assert main(["bench", "start", "--entries", "10"]) == 2
    assert "--entries must be at least 128" in capsys.readouterr().err
