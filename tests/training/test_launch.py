"""What cannot start here is refused in one line that names the setting, before anything is built."""

from __future__ import annotations

import socket
import threading
from datetime import timedelta

import pytest
import torch

from t2x_core.errors import UserError
from t2x_core.recipe import TrainerConfig
from t2x_core.training.check_launch import ALONE, check_launch
from t2x_core.training.parallel import Launch, launched, store

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x",
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}
SRUN = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}


def refused(launch: Launch = ALONE, **settings: object) -> UserError:
    with pytest.raises(UserError) as caught:
        check_launch(TrainerConfig(max_steps=1, global_batch=16, **settings), launch)  # type: ignore[arg-type]
    return caught.value


def launch(launch: Launch = ALONE, **settings: object) -> None:
    check_launch(TrainerConfig(max_steps=1, global_batch=16, **settings), launch)  # type: ignore[arg-type]


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


def test_several_nodes_need_somebody_who_starts_them():
    error = refused(num_nodes=2, devices=4, accelerator="cpu")
    assert error.key == "num_nodes"
    assert "torchrun --nnodes=2 --nproc-per-node=4 " in str(error)
    launch(launched(TORCHRUN), num_nodes=2, devices=4, accelerator="cpu")


@pytest.mark.parametrize(("devices", "nodes"), [(2, 1), (8, 1), (2, 4), (4, 1), (1, 16)])
def test_torchrun_must_start_as_many_as_the_recipe_says(devices, nodes):
    error = refused(launched(TORCHRUN), devices=devices, num_nodes=nodes, accelerator="cpu")
    assert error.key == "devices"
    assert str(error) == (
        f"torchrun started 8 processes, the recipe asks for {devices * nodes} (devices {devices} × num_nodes {nodes}); "
        "set trainer.devices=4 trainer.num_nodes=2"
    )


@pytest.mark.parametrize(("started", "nodes"), [(1, 16), (6, 4), (3, 1)])
def test_who_does_not_say_how_many_there_are_on_a_machine_is_believed(started, nodes):
    said = {**TORCHRUN, "WORLD_SIZE": str(started), "RANK": "0", "LOCAL_RANK": "0"}
    del said["LOCAL_WORLD_SIZE"]
    assert "the recipe asks for" in str(refused(launched(said), devices=1, num_nodes=nodes, accelerator="cpu"))


def test_slurm_must_start_as_many_as_the_recipe_says():
    one = {**SRUN, "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    launch(launched(one), accelerator="cpu")
    error = refused(launched(one), devices=4, num_nodes=2, accelerator="cpu")
    assert str(error) == (
        "SLURM has 1 task, the recipe asks for 8 (devices 4 × num_nodes 2); "
        "start it by srun --nodes=2 --ntasks-per-node=4"
    )
    launch(launched(SRUN), devices=4, num_nodes=2, accelerator="cpu")
    assert "SLURM_LOCALID is 1" in str(refused(launched(SRUN), devices=1, num_nodes=8, accelerator="cpu"))


def test_what_launchers_say_is_understood():
    found = launched(TORCHRUN)
    assert (found.by, found.rank, found.local_rank, found.node, found.ranks, found.local_ranks, found.address) == (
        ("torchrun", 5, 1, 1, 8, 4, "node1")
    )
    assert found.port == 29500
    found = launched(SRUN)
    assert (found.by, found.rank, found.local_rank, found.node, found.ranks) == ("srun", 5, 1, 1, 8)
    assert (found.address, found.port) == ("gpu07", 18456)
    assert launched({**SRUN, "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "1234", "WORLD_SIZE": "8"}).address == "10.0.0.7"
    by_hand = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert launched(by_hand).by == "torchrun"  # Kubernetes, accelerate, a terminal for each
    assert launched({**SRUN, **TORCHRUN}).by == "torchrun"  # torchrun in each task of SLURM


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"MASTER_ADDR": "10.255.255.1"},  # an address alone says of nobody that he is one of several
        {"MASTER_ADDR": "no-such-host.invalid", "MASTER_PORT": "abc"},
        {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train"},  # salloc, without srun
        {"SLURM_PROCID": "0", "SLURM_JOB_ID": "7"},  # sbatch without --ntasks
        {**SRUN, "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "bash"},  # srun --pty bash
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "interactive"},  # the shell of salloc
        {"PMI_SIZE": "1", "PMI_RANK": "0"},
        {"OMPI_COMM_WORLD_SIZE": "1"},
    ],
)
def test_one_process_that_starts_the_others_itself(said):
    assert launched(said) == Launch()


def test_tasks_in_an_interactive_allocation_are_ranks():
    """Else they would train as many runs."""
    assert launched({**SRUN, "SLURM_JOB_NAME": "interactive"}).ranks == 8


@pytest.mark.parametrize(
    ("said", "names", "repair"),
    [
        ({"RANK": "0"}, ["RANK is set", "WORLD_SIZE"], "unset RANK"),
        ({"LOCAL_RANK": "1"}, ["LOCAL_RANK is set", "WORLD_SIZE"], "unset LOCAL_RANK"),
        ({"NODE_RANK": "1", "MASTER_ADDR": "x"}, ["NODE_RANK is set"], "unset NODE_RANK"),
        ({"WORLD_SIZE": "2"}, ["WORLD_SIZE is set", "RANK"], "unset WORLD_SIZE"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
            ["LOCAL_RANK is not"],
            "unset RANK,",
        ),
        ({"TORCHELASTIC_RUN_ID": "1"}, ["TORCHELASTIC_RUN_ID is set"], "unset TORCHELASTIC_RUN_ID"),
        ({**TORCHRUN, "RANK": "two"}, ['RANK is "two"'], "unset RANK"),
        ({**TORCHRUN, "RANK": "8"}, ['RANK is "8", not a number from 0 to 7'], "unset RANK"),
        ({**TORCHRUN, "LOCAL_RANK": "4"}, ['LOCAL_RANK is "4", not a number from 0 to 3'], "unset"),
        ({**TORCHRUN, "WORLD_SIZE": "0"}, ['WORLD_SIZE is "0"'], "unset"),
        ({**TORCHRUN, "WORLD_SIZE": ""}, ['WORLD_SIZE is ""'], "unset"),
        ({**TORCHRUN, "WORLD_SIZE": "9" * 400}, ["WORLD_SIZE"], "unset"),
        ({**TORCHRUN, "MASTER_PORT": "70000"}, ['MASTER_PORT is "70000", not a number from 1 to 65535'], "unset"),
        ({**TORCHRUN, "MASTER_ADDR": " "}, ["MASTER_ADDR is empty"], "unset"),
        ({"SLURM_NTASKS": "two", "SLURM_PROCID": "0"}, ['SLURM_NTASKS is "two"'], "unset SLURM_NTASKS"),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "x"}, ["SLURM has 4 tasks", "no SLURM_PROCID"], "start it by srun"),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, ["SLURM_LOCALID and SLURM_NODEID"], "unset SLURM_PROCID"),
        ({"SLURM_PROCID": "3"}, ["SLURM_NTASKS is not"], "unset SLURM_PROCID"),
        ({**SRUN, "SLURM_PROCID": "8"}, ['SLURM_PROCID is "8"'], "unset SLURM_PROCID"),
        ({**SRUN, "SLURM_JOB_ID": "x"}, ['SLURM_JOB_ID is "x"'], "unset"),
        ({**SRUN, "WORLD_SIZE": "4"}, ["WORLD_SIZE is 4, and SLURM_NTASKS is 8"], "unset WORLD_SIZE"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, ["mpirun has started 2 processes"], "start them by torchrun"),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, ["mpiexec has started 2 processes"], "unset PMI_SIZE"),
    ],
)
def test_what_is_half_set_is_one_line_that_says_what_to_unset(said, names, repair):
    with pytest.raises(UserError) as caught:
        launched(said)
    assert str(caught.value).startswith("environment: ")
    assert all(name in str(caught.value) for name in names), str(caught.value)
    assert repair in str(caught.value)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def test_a_port_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        with pytest.raises(UserError, match=f"port {taken.getsockname()[1]}.*is taken.*set MASTER_PORT"):
            store.serve(Launch("srun", ranks=2, port=taken.getsockname()[1]))


def test_a_first_rank_that_is_elsewhere_is_named():
    with pytest.raises(UserError, match=r"does not reach itself at no-such-host.invalid.*set MASTER_ADDR"):
        store.serve(Launch("srun", ranks=2, address="no-such-host.invalid", port=free_port()))


def test_a_first_rank_that_does_not_come_is_named():
    launch = Launch("srun", rank=1, ranks=2, port=free_port(), patience=0.5)
    with pytest.raises(
        UserError, match=f"rank 1 waited . s for rank 0 at 127.0.0.1, port {launch.port}: conn.* refused"
    ):
        store.connect(launch)


def test_ranks_that_do_not_come_are_named():
    served = store.serve(Launch("srun", ranks=4, port=free_port()))
    served.set("name/0", "")
    served.set("name/2", "")
    with pytest.raises(UserError, match=r"ranks 1, 3 of 4 did not come within . s; .*unset SLURM_NTASKS"):
        store.wait_for_ranks(served, Launch("srun", ranks=4, patience=0.5), "name")


def test_what_is_no_rank_at_the_port_is_named(monkeypatch):
    """It takes the connection, and says nothing."""
    monkeypatch.setattr(store, "TIMEOUT", timedelta(seconds=0.5))
    with socket.create_server(("", 0)) as other:
        threading.Thread(target=lambda: [other.accept()[0].close() for _ in range(2)], daemon=True).start()
        with pytest.raises(UserError, match="is not rank 0 of this run; set MASTER_PORT"):
            store.connect(Launch("srun", rank=1, ranks=2, port=other.getsockname()[1], patience=0.5))


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
