"""`t2x bench backbone`, small."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from t2x_core.bench.backbone.measure import Bench
from t2x_core.bench.backbone.networks import FoldedNetwork, Inputs, build
from t2x_core.bench.backbone.options import Options, missing_pixart
from t2x_core.bench.backbone.results import Results
from t2x_core.cli.main import main

TINY = ("--device=cpu", "--width=32", "--heads=2", "--depth=1", "--text=3", "--rounds=3", "--budget=0")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory):
    """What the command prints and writes for an image and two clips."""
    file = tmp_path_factory.mktemp("bench") / "backbone.json"
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("t2x_core.bench.backbone.measure.LEAST_SECONDS", {"cpu": 0.001})
        patch.setattr("builtins.print", lambda *parts, **_: lines.append(" ".join(map(str, parts))))
        assert main(["bench", "backbone", *TINY, "--tokens=16", "--clips=2x4x4,4x4x4", "--json", str(file)]) == 0
    return "\n".join(lines), file


def test_every_network_is_measured_in_every_cell(measured):
    printed, file = measured
    results = Results.read(file)
    assert [cell.grid for cell in results.cells] == 2 * [(1, 4, 4)] + 2 * [(2, 4, 4)] + 2 * [(4, 4, 4)]
    own = ["proxy", "fused", "dense", "released", "folded"]
    pixart = [] if missing_pixart() else ["pixart"]
    assert [entry.name for entry in results.cells[0].entries] == own + pixart
    assert [entry.name for entry in results.cells[1].entries] == own[:-1] + pixart
    assert [entry.name for entry in results.cells[2].entries] == own
    for cell in results.cells:
        for entry in cell.entries:
            assert len(entry.seconds) == len(entry.peaks) == 3
            assert min(entry.seconds) > 0
            assert 0 < entry.flops_blocks < entry.flops_network
            assert entry.memory is not None
            assert entry.memory > 0
    assert results.settings["width"] == 32
    assert results.machine["torch"] == torch.__version__
    assert f"machine    {results.machine['cpu']}" in printed
    assert printed.count("matrix product") == 6
    assert "N = 16 (1×4×4), forward + backward\n" in printed
    assert "memory of longer clips" in printed
    assert "9.7 %" in printed


def test_the_file_holds_medians_beside_the_times(measured):
    _, file = measured
    found = json.loads(file.read_text())["cells"][0]["entries"][0]
    assert sorted(found["seconds"])[1] == found["time"]["median"]


def test_what_was_measured_can_be_shown_again(measured, capsys):
    printed, file = measured
    assert main(["bench", "backbone", "--from", str(file)]) == 0
    shown = capsys.readouterr().out
    note = [line for line in printed.splitlines() if not line.startswith("pixart is left out")]
    assert shown.splitlines() == note


def test_cost_is_drawn(measured, tmp_path):
    image = tmp_path / "cost.png"
    assert main(["bench", "backbone", "--from", str(measured[1]), "--plot", str(image)]) == 0
    with Image.open(image) as image:
        image.load()
        assert image.format == "PNG"
        assert len(image.convert("L").getcolors()) > 50


def test_a_file_of_something_else_is_one_line(tmp_path, capsys):
    file = tmp_path / "x.json"
    file.write_text('{"cells": 3}')
    assert main(["bench", "backbone", "--from", str(file)]) == 2
    assert capsys.readouterr().err == f"t2x: command line: {file} is no file of t2x bench backbone --json\n"


def test_what_runs_out_of_memory_does_not_stop_the_others(monkeypatch):
    def call(self, inputs):
        if inputs.latents.is_meta:
            return self.model(inputs.latents, inputs.t, inputs.conditioning, self.cache)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FoldedNetwork, "__call__", call)
    options = Options(width=32, depth=1, heads=2, text=3, variants=("folded", "dense"), rounds=3, budget=0)
    folded, dense = Bench(options).measure((1, 4, 4), "forward").entries
    assert (folded.failure, folded.seconds) == ("out of memory", [])
    assert len(dense.seconds) == 3


def test_no_weight_is_all_zero():
    options = Options(width=32, depth=1, heads=2, text=3)
    for variant in ("proxy", "fused", "folded"):
        model = build(variant, options, (1, 4, 4), torch.device("cpu")).model
        assert all(p.any() for name, p in model.named_parameters() if p.ndim > 1), variant


def test_compiled_blocks_compute_the_same():
    options = Options(width=32, depth=2, heads=2, text=3)
    inputs = Inputs.make(options, (1, 4, 4), torch.device("cpu"))
    network = build("fused", options, (1, 4, 4), torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.compile", lambda forward, **_: lambda *a, **k: 2 * forward(*a, **k))
        compiled = network.compiled(backward=False)
    with torch.no_grad():
        assert not torch.equal(compiled(inputs), network(inputs))  # it is the compiled blocks that are called
    assert {id(p) for p in compiled.model.parameters()} == {id(p) for p in network.model.parameters()}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_measured_with_and_without_compiled_blocks(tmp_path):
    file = tmp_path / "x.json"
    tiny = ("--width=64", "--depth=2", "--text=3", "--rounds=3", "--budget=0", "--tokens=64", "--clips=4x8x8")
    assert main(["bench", "backbone", "--device=cuda", *tiny, "--json", str(file)]) == 0
    for cell in Results.read(file).cells:
        assert {entry.compiled for entry in cell.entries} == {False, True}
        for entry in cell.entries:
            assert entry.failure is None, entry.name
            assert len(entry.seconds) == 3
            assert entry.memory
