"""`t2x bench data`: both sides read the same frames, and the figures come out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from t2x_core.bench.data import DataBenchmark, _bare
from t2x_core.cli.main import main
from t2x_core.video import Choice, Films
from tests.video.film_set import write_film


def test_both_sides_read_the_same_frames(tmp_path):
    for suffix in (".mp4", ".webm"):
        path = str(write_film(tmp_path / f"a{suffix}", frames=30))
        for place in (0.0, 0.6):
            choice = Choice(8, stride=2)
            ours, _ = Films().clip(path, choice, place, (32, 43), (32, 32))
            bare = _bare(path, choice, place, (32, 43), 32)
            assert np.array_equal(ours, bare)


def test_the_ratio_is_the_median_over_neighbouring_blocks():
    result = DataBenchmark([1.1, 2.0, 3.3], [1.0, 2.0, 3.0])
    assert result.ratio == pytest.approx(1.1)
    low, high = result.spread
    assert low < 1.1 <= high


def test_the_command_prints_and_writes_its_figures(tmp_path, capsys):
    for i in range(2):
        write_film(tmp_path / f"{i}.mp4", frames=20)
    command = ["bench", "data", str(tmp_path), "--blocks", "2", "--frames", "4", "--size", "32", "--json"]
    assert main([*command, str(tmp_path / "x.json")]) == 0
    assert "2 turns of 2 clips of 4 frames" in capsys.readouterr().out
    written = json.loads((tmp_path / "x.json").read_text())
    assert len(written["loader"]) == len(written["bare"]) == 2
    assert main(["bench", "data", str(tmp_path), "--blocks", "2", "--frames", "40"]) == 2
    assert "has 20 frames, fewer than the 79 needed" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["bench", "data", str(tmp_path / "empty")]) == 2
    assert "there are no films in" in capsys.readouterr().err
