"""What is said before a run: the memory estimate holds, and nothing is left behind."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.cli.main import main
from t2x_core.module import T2XModule
from t2x_core.training import preflight
from t2x_core.types import Batch, SampleKey
from tests.conftest import TINY


def bytes_kept(module: T2XModule, batch: Batch) -> int:
    """What autograd really keeps in a forward pass, weights not counted."""
    weights = {w.untyped_storage().data_ptr() for w in (*module.parameters(), *module.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        module.training_step(batch, 0)
    return sum(storage.nbytes() for address, storage in kept.items() if address not in weights)


@pytest.mark.parametrize("attention", ["proxy", "fused", "dense"])
def test_the_activations_are_those_that_training_keeps(attention):
    settings = [*TINY, "tasks.text-to-image.data.shapes.size=64", f"backbone.attention={attention}"]
    assembly = load_assembly("quickstart", settings)
    module = build_module(assembly)
    data = build_data(assembly, module)
    data.check()
    estimate = preflight.estimate_memory(module, data, assembly.recipe, "32-true")
    source = data.modules["text-to-image"].train_source()
    batch = source.collate([source[SampleKey("text-to-image", 0, 0, 0, slot)] for slot in range(4)])
    assert estimate.activations == pytest.approx(bytes_kept(module, batch), rel=0.03)
    weights = sum(p.nbytes for p in module.parameters())
    assert (estimate.weights, estimate.gradients, estimate.optimizer) == (weights, weights, 3 * weights)
    assert preflight.estimate_memory(module, data, assembly.recipe, "bf16-mixed").activations < estimate.activations


def test_a_dry_run_says_what_would_run_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "quickstart", *TINY, "trainer.accumulation=2", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    module = build_module(load_assembly("quickstart", TINY))
    assert f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} M parameters" in printed
    assert "training   2 steps of 4 samples (2 micro-batches of 2)" in printed
    assert "first      2 samples of 16×16, such as" in printed
    assert "memory     about 0.0" in printed
    assert not list(tmp_path.iterdir())


def test_a_dry_run_finds_what_training_would_not_survive(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").touch()
    assert main(["fit", "quickstart", *TINY, "--dry-run"]) == 2
    assert "cannot write into" in capsys.readouterr().err


def test_a_chosen_folder_is_used_and_never_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "quickstart", *TINY, "--folder", "mine"]) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").rglob("*")}
    assert (tmp_path / "mine" / "checkpoints" / "step_00000002").is_dir()
    capsys.readouterr()
    assert main(["fit", "quickstart", *TINY, "--folder", "mine"]) == 2
    assert "mine holds a run; go on with it by --resume mine, or choose another folder" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").rglob("*")} == before
