"""`t2x bench presets`."""

from __future__ import annotations

import pytest

from t2x_core.backbone import PRESETS
from t2x_core.bench.backbone.presets import sizes
from t2x_core.cli.main import main


def test_presets_are_listed_with_parameters_and_operations(capsys):
    assert main(["bench", "presets", "--tokens", "256"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| preset | attention | parameters | GFLOP, N = 256 |"
    assert [line.split(" | ")[0] for line in lines[2::3]] == ["| S", "| B", "| L", "| XL", "| H"]
    assert set(PRESETS) > {line.split()[1] for line in lines[2:]}


@pytest.mark.parametrize("options", ["--tokens=3", "--tokens=,", "--text=0"])
def test_presets_of_impossible_shapes_are_refused(options, capsys):
    assert main(["bench", "presets", options]) == 2
    assert capsys.readouterr().err.startswith(f"t2x: command line: {options.partition('=')[0]} ")


def test_the_operations_of_a_preset():
    dense = next(size for size in sizes(((1, 16, 16),), text=200) if (size.preset, size.attention) == ("XL", "dense"))
    D, N, T = 1152, 256, 200
    block = 12 * N * D * D + 2 * N * N * D + 2 * N * D * D + 2 * T * D * D + 2 * N * T * D
    around = 2 * 16 * N * D + (256 + 7 * D) * D + T * (4096 + D) * D
    assert dense.flops == (2 * (28 * block + around),)
    assert 600e6 < dense.parameters < 650e6
