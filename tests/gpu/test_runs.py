"""Whole runs on a GPU: their losses against a CPU's, strategies, a kill, and too little memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.cli.main import main
from t2x_core.training.fit import fit
from tests.conftest import TINY
from tests.gpu.device import ACCELERATOR, cuda_only, marks
from tests.training.test_resume import KILL_AFTER, SETTINGS, STEPS, lines, run_killed, run_through

pytestmark = marks
QUIET = ("logging.validate_every=1000", "logging.sample_every=0", "logging.final_score_samples=0", "logging.samples=1")


class Losses(Callback):
    def __init__(self) -> None:
        self.found: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.found.append(outputs["losses"].detach().double().mean())


def losses(folder: Path, recipe: str, *settings: str) -> torch.Tensor:
    assembly = load_assembly(recipe, list(settings))
    module, trace = build_module(assembly), Losses()
    try:
        fit(assembly, module, build_data(assembly, module), folder, extra=[trace])
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return torch.stack(trace.found).cpu()


@pytest.mark.parametrize("recipe", ["quickstart", "text_to_video/quickstart", "text_to_multiview/quickstart"])
def test_the_first_50_losses_are_those_of_the_cpu(recipe: str, tmp_path: Path) -> None:
    same = (*QUIET, "trainer.max_steps=50", "trainer.precision=32-true", "trainer.workers=2")
    found = losses(tmp_path / "device", recipe, *same, ACCELERATOR)
    expected = losses(tmp_path / "cpu", recipe, *same, "trainer.accelerator=cpu")
    assert len(found) == len(expected) >= 50
    torch.testing.assert_close(found[:10], expected[:10], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found, expected, rtol=3e-2, atol=1e-3)  # roundings grow with the steps


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_strategies_on_one_device(strategy: str, precision: str, tmp_path: Path) -> None:
    """hsdp wants several devices, and says so."""
    same = (*TINY, *QUIET, "trainer.max_steps=4", ACCELERATOR, f"trainer.precision={precision}", "trainer.devices=1")
    found = losses(tmp_path / "one", "quickstart", *same, f"trainer.strategy={strategy}")
    expected = losses(tmp_path / "auto", "quickstart", *same)
    torch.testing.assert_close(found, expected, rtol=1e-4 if precision == "32-true" else 3e-2, atol=1e-4)


def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    settings = [*SETTINGS, ACCELERATOR, "deterministic=true"]
    expected = run_through(tmp_path / "whole", settings)
    found = run_killed(tmp_path / "killed", settings, KILL_AFTER)
    assert [line["step"] for line in expected] == list(range(STEPS))
    assert found[-1]["step"] == STEPS - 1
    assert len(found) > STEPS - 1
    for line in lines(tmp_path / "killed"):
        assert line == expected[line["step"]]


@cuda_only
def test_too_little_memory_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.cuda.set_per_process_memory_fraction(0.001)
    try:
        code = main(["fit", "quickstart", *TINY, *QUIET, "backbone.width=1024", "backbone.depth=8", ACCELERATOR,
                     "--folder", str(tmp_path / "run")])  # fmt: skip
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    said = capfd.readouterr().err
    assert code != 0
    assert "memory" in said
    assert "Traceback" not in said
