"""What cannot start here is refused in one line that names the setting, before anything is built."""

from __future__ import annotations

import pytest
import torch

from t2x_core.errors import UserError
from t2x_core.recipe import TrainerConfig
from t2x_core.training.launch import check_launch


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_NTASKS", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)


def refused(**settings: object) -> UserError:
    with pytest.raises(UserError) as caught:
        check_launch(TrainerConfig(max_steps=1, global_batch=16, **settings))  # type: ignore[arg-type]
    return caught.value


def launch(**settings: object) -> None:
    check_launch(TrainerConfig(max_steps=1, global_batch=16, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "key", "says"),
    [
        ({"strategy": "fsdp2", "precision": "16-mixed"}, "precision", "16-mixed does not go with fsdp2"),
        ({"strategy": "hsdp", "precision": "16-mixed", "devices": 4}, "precision", "16-mixed does not go with hsdp"),
        ({"strategy": "hsdp"}, "strategy", "hsdp needs several devices"),
        (
            {"strategy": "hsdp", "devices": 4, "shards": 3},
            "shards",
            "4 devices do not divide into groups of 3; 1, 2, 4",
        ),
        ({"strategy": "fsdp2", "devices": 4, "shards": 2}, "shards", "only hsdp has shards"),
        ({"precision": "16-mixed", "accelerator": "cpu"}, "precision", "16-mixed needs a GPU"),
        ({"strategy": "hsdp", "devices": "auto", "accelerator": "cpu"}, "strategy", "hsdp needs several devices"),
    ],
)
def test_what_does_not_go_together(settings, key, says):
    error = refused(**settings)
    assert error.key == key
    assert says in str(error)


def test_several_nodes_need_somebody_who_starts_them(monkeypatch):
    error = refused(num_nodes=2, devices=4, accelerator="cpu")
    assert error.key == "num_nodes"
    assert "torchrun --nnodes=2 --nproc-per-node=4 " in str(error)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    launch(num_nodes=2, devices=4, accelerator="cpu")


@pytest.mark.parametrize(("devices", "nodes"), [(2, 1), (8, 1), (2, 4), (4, 1)])
def test_torchrun_must_start_as_many_as_the_recipe_says(devices, nodes, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    error = refused(devices=devices, num_nodes=nodes, accelerator="cpu")
    assert error.key == "devices"
    assert str(error) == (
        f"torchrun started 8 processes, the recipe asks for {devices * nodes} (devices {devices} × num_nodes {nodes}); "
        "set trainer.devices=4 trainer.num_nodes=2"
    )


def test_slurm_must_start_as_many_as_the_recipe_says(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    launch(accelerator="cpu")
    error = refused(devices=4, num_nodes=2, accelerator="cpu")
    assert str(error) == (
        "SLURM has 1 tasks, the recipe asks for 8 (devices 4 × num_nodes 2); "
        "start it by srun --nodes=2 --ntasks-per-node=4"
    )
    monkeypatch.setenv("SLURM_NTASKS", "8")
    launch(devices=4, num_nodes=2, accelerator="cpu")


def test_a_gpu_must_be_there_and_have_what_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    assert refused(devices=4).key == "devices"
    assert refused(precision="bf16-mixed").key == "precision"
    assert refused(precision="bf16-true").key == "precision"
    launch(precision="16-mixed")
    launch(precision="bf16-mixed", accelerator="cpu")
    with pytest.raises(UserError, match="15 does not divide into devices 2 ×"):
        check_launch(TrainerConfig(max_steps=1, global_batch=15, devices="auto"))


def test_compiling_needs_a_compiler(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    launch(compile=True, accelerator="cpu")
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    assert str(refused(compile=True, accelerator="cpu")) == (
        "there is no compiler here (no-such-compiler); install one, or set CXX"
    )
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "/nowhere")
    assert refused(compile=True, accelerator="cpu").key == "compile"
    launch(accelerator="cpu")
