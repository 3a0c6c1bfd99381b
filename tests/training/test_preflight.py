"""What is said before a run: the memory estimate holds, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.backbone.training_blocks import set_blocks
from t2x_core.cli.main import main
from t2x_core.module import T2XModule
from t2x_core.training import first_step, memory_estimate
from t2x_core.training.precision import precision_plugin
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
    estimate = memory_estimate.estimate_memory(module, data, assembly.recipe, "32-true")
    source = data.modules["text-to-image"].train_source()
    batch = source.collate([source[SampleKey("text-to-image", 0, 0, 0, slot)] for slot in range(4)])
    assert estimate.activations == pytest.approx(bytes_kept(module, batch), rel=0.03)
    weights = sum(p.nbytes for p in module.parameters())
    assert (estimate.weights, estimate.gradients, estimate.optimizer) == (weights, weights, 3 * weights)
    assert (
        memory_estimate.estimate_memory(module, data, assembly.recipe, "bf16-mixed").activations < estimate.activations
    )


class Alive(TorchDispatchMode):
    """Keeps account of the memory of what operations return, views of `weights` left out."""

    def __init__(self, weights: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self._weights = {w.untyped_storage()._cdata for w in weights}
        self._sizes: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._sizes[StorageWeakRef(leaf.untyped_storage())] = leaf.untyped_storage().nbytes()
        return out

    def bytes(self) -> int:
        alive = {ref.cdata: size for ref, size in self._sizes.items() if not ref.expired()}
        return sum(size for storage, size in alive.items() if storage not in self._weights)


@pytest.mark.parametrize(("checkpointing", "at_most"), [("true", 0.5), ("selective", 0.8)])
@pytest.mark.parametrize("attention", ["proxy", "fused", "dense"])
def test_checkpointing_keeps_the_inputs_of_blocks_and_the_inside_of_one(attention, checkpointing, at_most):
    depth = 6
    shape = ["tasks.text-to-image.data.shapes.size=64", f"backbone.attention={attention}", f"backbone.depth={depth}"]
    assembly = load_assembly("quickstart", [*TINY, *shape, f"trainer.gradient_checkpointing={checkpointing}"])
    module = build_module(assembly)
    data = build_data(assembly, module)
    data.check()
    estimate = memory_estimate.estimate_memory(module, data, assembly.recipe, "32-true").activations
    source = data.modules["text-to-image"].train_source()
    batch = source.collate([source[SampleKey("text-to-image", 0, 0, 0, slot)] for slot in range(4)])

    def after_forward() -> int:
        with Alive(module.parameters()) as alive:
            out = module.training_step(batch, 0)
            kept = alive.bytes()
            out["loss"].backward()
        return kept

    after_forward()  # fills the caches
    plain = after_forward()
    set_blocks(module.backbone, checkpointing=assembly.recipe.trainer.gradient_checkpointing)
    checkpointed = after_forward()
    one_block = (plain - checkpointed) / depth
    assert checkpointed < at_most * plain
    assert 0.95 < estimate / (checkpointed + one_block) < 1.15  # of `fused`, some is saved and let go at once


def test_shards_and_bf16_weights_take_their_part():
    def estimate(*settings):
        assembly = load_assembly("quickstart", [*TINY, "trainer.global_batch=8", *settings])
        module = build_module(assembly)
        module.codec.part.register_buffer("frozen", torch.zeros(1000))
        precision = assembly.recipe.trainer.precision
        precision_plugin(precision, "cpu").convert_module(module)
        data = build_data(assembly, module)
        data.check()
        return memory_estimate.estimate_memory(module, data, assembly.recipe, precision), module

    four = ["trainer.devices=4", "trainer.strategy"]
    whole, module = estimate("trainer.devices=4")
    trained = sum(p.nbytes for p in module.parameters())
    assert (whole.weights, whole.gradients, whole.optimizer) == (trained + 4000, trained, 3 * trained)
    sharded, _ = estimate(f"{four[1]}=fsdp2", four[0])
    assert (sharded.weights, sharded.gradients) == (trained // 4 + 4000, trained // 4)
    assert sharded.optimizer == 3 * trained // 4
    assert sharded.activations == whole.activations
    pairs, _ = estimate(f"{four[1]}=hsdp", four[0], "trainer.shards=2")
    assert (pairs.weights, pairs.gradients) == (trained // 2 + 4000, trained // 2)
    half, _ = estimate("trainer.devices=4", "trainer.precision=bf16-true")
    assert (half.weights, half.gradients) == (trained // 2 + 4000, trained // 2)
    assert half.optimizer == 2 * trained  # two averages in bf16, and that of the weights in float32
    assert half.activations < 0.8 * whole.activations


def test_a_dry_run_says_what_would_run_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "quickstart", *TINY, "trainer.accumulation=2", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    module = build_module(load_assembly("quickstart", TINY))
    assert f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} M parameters" in printed
    assert "training   2 steps of 4 samples (2 micro-batches of 2)" in printed
    assert "first      2 samples of 16×16, such as" in printed
    assert "tried      one sample forwards and backwards: loss " in printed
    assert "memory     about 0.0" in printed
    assert not list(tmp_path.iterdir())


def test_a_dry_run_finds_what_training_would_not_survive(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").touch()
    assert main(["fit", "quickstart", *TINY, "--dry-run"]) == 2
    assert "cannot write into" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["score", "render", "loss"])
def test_a_dry_run_finds_a_method_that_fails(tmp_path, monkeypatch, capsys, method):
    def broken(*_):
        raise ZeroDivisionError("by zero")

    monkeypatch.chdir(tmp_path)
    task = type(load_assembly("quickstart", TINY).tasks["text-to-image"])
    monkeypatch.setattr(task, method, (lambda self: broken) if method == "loss" else broken)
    assert main(["fit", "quickstart", *TINY, "--dry-run"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "t2x: " in line]
    assert 'plugin "text-to-image" of t2x' in line
    assert f"{method} failed" in line
    assert "ZeroDivisionError: by zero" in line


def test_a_dry_run_tries_no_step_of_a_large_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(first_step, "MOST", 1000)
    monkeypatch.setattr(torch.Tensor, "backward", None)
    assert main(["fit", "quickstart", *TINY, "--dry-run"]) == 0
    assert "tried      no step: 0 M parameters are more than 0 M" in capsys.readouterr().out


def test_a_chosen_folder_is_used_and_never_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "quickstart", *TINY, "--folder", "mine"]) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").rglob("*")}
    assert (tmp_path / "mine" / "checkpoints" / "step_00000002").is_dir()
    capsys.readouterr()
    assert main(["fit", "quickstart", *TINY, "--folder", "mine"]) == 2
    assert "mine holds a run; go on with it by --resume mine, or choose another folder" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").rglob("*")} == before
