"""What is larger than the memory is said before it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from t2x_core import assembly, free_memory
from t2x_core.assembly import build_module, load_assembly
from t2x_core.cli.main import main
from t2x_core.errors import UserError
from t2x_core.free_memory import GIB
from t2x_core.training import memory_estimate, preflight
from tests.conftest import TINY


def test_free_memory_is_that_of_the_machine_or_less():
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    found = free_memory.free_memory()
    assert found is not None
    assert 0 < found <= 2 * total  # with swap


def group(folder: Path, limit: str, used: int, cache: int, names: tuple[str, str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip(
        names,
        (limit, str(used), f"anon 5\n{'total_' if 'usage' in names[1] else ''}inactive_file {cache}"),
        strict=True,
    ):
        (folder / name).write_text(text)


def test_control_groups_limit_it_from_the_own_to_the_root(tmp_path):
    names = ("memory.max", "memory.current", "memory.stat")
    group(tmp_path / "job" / "step", "max", 700, 0, names)
    group(tmp_path / "job", "1000", 700, 100, names)
    group(tmp_path, "5000", 900, 0, names)
    own = tmp_path / "cgroup"
    own.write_text("0::/job/step\n")
    assert list(free_memory._groups(tmp_path, own)) == [400, 4100]
    own.write_text("0::/elsewhere\n")  # as a container has it, which sees its own group as the root
    assert list(free_memory._groups(tmp_path, own)) == [4100]
    old = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
    group(tmp_path / "memory" / "job", "300", 400, 0, old)
    own.write_text("3:cpu:/x\n7:memory:/job\n")
    assert list(free_memory._groups(tmp_path, own)) == [0]


@pytest.mark.parametrize("room", [10**5, 10**12])
def test_a_backbone_that_does_not_fit_is_refused_before_it_is_made(monkeypatch, room):
    monkeypatch.setattr(assembly, "free_memory", lambda: room)
    recipe = load_assembly("quickstart", TINY)
    if room == 10**12:
        build_module(recipe)
        return
    made = []
    monkeypatch.setattr(torch.nn.init, "normal_", lambda *_, **__: made.append(1))
    with pytest.raises(UserError, match=r"its weights take 0\.0 GiB, and 0\.0 GiB of memory are free; make it smaller"):
        build_module(recipe)


def test_asking_for_the_size_draws_nothing(monkeypatch):
    recipe = load_assembly("quickstart", TINY)
    asked = build_module(recipe)
    monkeypatch.setattr(assembly, "check_room", lambda config, room: None)
    plain = build_module(recipe)
    for one, other in zip(asked.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("width", [1_600_000, 10**15])
def test_a_huge_backbone_is_one_line_at_once(width, capsys):
    assert main(["fit", "quickstart", f"backbone.width={width}", "--dry-run"]) in (2, 3)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "weights" in said or "memory" in said


def test_gradients_and_averages_count_and_so_does_the_estimate(monkeypatch):
    recipe = load_assembly("quickstart", [*TINY, "trainer.accelerator=cpu"])
    module = build_module(recipe)
    weights = sum(p.nbytes for p in module.parameters())
    monkeypatch.setattr(preflight, "free_memory", lambda: 4 * weights - 1)  # gradient, two averages, the moving average
    with pytest.raises(UserError, match=r"training needs 0\.0 GiB besides the weights"):
        preflight.check_room(module, recipe.recipe)
    monkeypatch.setattr(preflight, "free_memory", lambda: 5 * weights)
    preflight.check_room(module, recipe.recipe)
    memory = memory_estimate.Memory(GIB, GIB, GIB, 3 * GIB)
    monkeypatch.setattr(preflight, "free_memory", lambda: 5 * GIB)
    preflight._check_estimate(memory, recipe.recipe.trainer)
    monkeypatch.setattr(preflight, "free_memory", lambda: 5 * GIB - 1)
    with pytest.raises(UserError, match=r"needs about 6\.00 GiB a device: .*; the machine has free 6\.00 GiB; make"):
        preflight._check_estimate(memory, recipe.recipe.trainer)
