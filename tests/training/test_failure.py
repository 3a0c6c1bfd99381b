"""Training that fails says in one line what happened and what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.cli.main import main
from t2x_core.errors import TrainingError
from t2x_core.module import T2XModule
from t2x_core.training.failure import explain
from t2x_core.training.out_of_memory import hint, is_out_of_memory
from tests.conftest import IMAGES, TINY, TINY_IMAGES
from tests.data.image_set import write_good

HANGS = """
import sys, time
from t2x_core.cli.main import main
from t2x_plugins.text_to_image.data import ShapesSource
read = ShapesSource.__getitem__
def hang(self, key):
    while key.step == 3:
        time.sleep(1)
    return read(self, key)
ShapesSource.__getitem__ = hang
ShapesSource.name = lambda self, key: f"drawing_{key.slot}.png"
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def _no_bf16_units(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


def recipe(*settings):
    return load_assembly("quickstart", [*TINY, *settings]).recipe


def test_a_stalled_loader_ends_training_with_one_line_and_exit_code_3(tmp_path):
    settings = [*TINY, "trainer.workers=2", "trainer.stall_minutes=0.03", "trainer.max_steps=9"]
    done = subprocess.run(
        [sys.executable, "-c", HANGS, "fit", "quickstart", *settings],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 3, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("t2x: ")]
    assert "the loader gave no batch for 0.03 minutes: process " in line
    assert "has been reading drawing_0.png (sample " in line
    assert "Traceback" not in done.stderr


def test_out_of_memory_while_training_is_one_line(tmp_path, monkeypatch, capsys):
    def greedy(self, batch, batch_idx):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has …")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(T2XModule, "training_step", greedy)
    assert main(["fit", "quickstart", *TINY]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "t2x: training failed: out of memory; go on by --resume with trainer.gradient_checkpointing=true or "
        "trainer.accumulation=2 (micro-batches of 2); or start anew with a smaller backbone"
    )


def test_memory_that_the_machine_does_not_have_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes differ"))


@pytest.mark.parametrize(
    ("settings", "resumed"),
    [
        (["trainer.global_batch=12", "trainer.accumulation=2"], "trainer.accumulation=3 (micro-batches of 4)"),
        (["trainer.global_batch=10", "trainer.accumulation=2"], "trainer.accumulation=5 (micro-batches of 2)"),
        (["trainer.global_batch=12", "trainer.devices=3", "trainer.accumulation=4"], "trainer.strategy=fsdp2"),
        (
            ["trainer.global_batch=12", "trainer.devices=3", "trainer.strategy=fsdp2"],
            "trainer.accumulation=2 (micro-batches of 2)",
        ),
    ],
)
def test_only_what_is_not_on_yet_and_divides_the_batch_is_offered(settings, resumed):
    said = hint(recipe("trainer.gradient_checkpointing=true", *settings))
    assert said == f"go on by --resume with {resumed}; or start anew with a smaller backbone"


def test_nothing_is_offered_that_is_on(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    settings = ["trainer.accumulation=4", "trainer.gradient_checkpointing=true"]
    exact, half = (hint(recipe(*settings, f"trainer.precision={p}")) for p in ("32-true", "bf16-true"))
    assert exact == "start anew with trainer.precision=bf16-mixed or trainer.precision=bf16-true or a smaller backbone"
    assert half == "start anew with a smaller backbone"


def test_any_other_failure_is_one_line_too():
    made = recipe()
    assert explain(TrainingError("it stopped", hint="do this"), made) == "it stopped; do this"
    text = "Caught KeyError in DataLoader worker process 0.\nOriginal Traceback …:\n  File …\nKeyError: 'x'\n"
    assert explain(KeyError(text), made).count("\n") == 0
    assert explain(RuntimeError(text), made) == "RuntimeError: KeyError: 'x'; T2X_DEBUG=1 shows where"
    assert explain(ValueError(), made) == "ValueError: no more is said; T2X_DEBUG=1 shows where"


def test_a_resumed_run_wants_its_data_back(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_good(tmp_path / "photos", 28)
    settings = [*TINY_IMAGES, f"{IMAGES}.folder=photos", "trainer.workers=0"]
    command = ["fit", "text_to_image/folder", *settings, "trainer.max_steps=4"]
    assert main(["fit", "text_to_image/folder", *settings, "--folder", "run"]) == 0
    write_good(tmp_path / "photos", 34)
    capsys.readouterr()
    assert main([*command, "--resume", "run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("t2x: the data is not that with which the run began: for training text-to-image had ")
    assert line.endswith("; put it back, or --allow data to go on with samples in another order")
    assert main([*command, "--resume", "run", "--allow", "data"]) == 0
    assert "changed    data: for training text-to-image had " in Path("run/log.txt").read_text()
    assert main([*command, "trainer.max_steps=5", "--resume", "run"]) == 0


def test_more_processes_than_cores_are_told_in_a_line_of_ours(tmp_path, recwarn):
    assembly = load_assembly("quickstart", [*TINY, "trainer.workers=60"])
    data = build_data(assembly, build_module(assembly))
    data.check()
    data.train_loader(0, 1, lambda: 0)
    assert "60 loader processes share " in "\n".join(data.describe())
    assert not [warning for warning in recwarn if "worker" in str(warning.message)]
