"""`t2x bench fit`: both loops do the same work, and the figures come out."""

from __future__ import annotations

import json

import torch

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.bench.fit import IN_MEMORY, BareLoop, LoopBenchmark
from t2x_core.checkpoint import materialize, open_checkpoint
from t2x_core.cli.main import main
from t2x_core.training.fit import fit
from tests.conftest import TINY


def test_the_bare_loop_trains_what_fit_trains(tmp_path):
    assembly = load_assembly("quickstart", [*TINY, "trainer.accumulation=2", "trainer.max_steps=4"])
    module = build_module(assembly)
    fit(assembly, module, build_data(assembly, module), tmp_path)
    saved = materialize(open_checkpoint(tmp_path, "last")[1])
    bare = BareLoop(assembly)
    bare.start(torch.device("cpu"), "32-true")
    bare.steps(4)
    names = [name for name, _ in bare.module.trainable()]
    assert saved["global_step"] == 4
    for name, weight, average in zip(names, bare.weights, bare.average, strict=True):
        torch.testing.assert_close(saved["state_dict"][name], weight.detach())
        torch.testing.assert_close(saved["ema"]["weights"][name], average)


def test_a_loop_with_batches_in_memory_reads_no_more():
    assembly = load_assembly("quickstart", [*TINY, "trainer.max_steps=40"])
    reads, held = BareLoop(assembly), BareLoop(assembly, in_memory=True)
    for loop in (reads, held):
        loop.start(torch.device("cpu"), "32-true")
    first, again = ([next(loop.batches).pixels for _ in range(2 * IN_MEMORY)] for loop in (reads, held))
    for i in range(IN_MEMORY):
        assert torch.equal(again[i], first[i])
        assert torch.equal(again[i + IN_MEMORY], first[i])
        assert not torch.equal(first[i + IN_MEMORY], first[i])


def test_the_command_prints_the_ratio_and_writes_the_times(tmp_path, capsys):
    out = tmp_path / "fit.json"
    assert main(["bench", "fit", "quickstart", *TINY, "--blocks", "3", "--steps", "2", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    found = json.loads(out.read_text())
    assert len(found["fit"]) == len(found["bare"]) == 3
    assert f"ratio      {found['ratio']:.3f}" in printed
    assert found["machine"]["torch"] == torch.__version__


def test_the_ratio_is_the_median_of_neighbours():
    assert LoopBenchmark([2.0, 3.0, 40.0], [1.0, 2.0, 4.0]).ratio == 2.0


def test_too_few_turns_are_refused(capsys):
    assert main(["bench", "fit", "--blocks", "1"]) == 2
    assert "--blocks must be at least 2, not 1" in capsys.readouterr().err
