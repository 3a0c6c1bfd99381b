"""Which process this is of how many, and how all of them get to know what the first one decides."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from t2x_core.errors import UserError

RUN_FOLDER = "T2X_RUN_FOLDER"
"""Environment variable in which a process tells those that it starts as other ranks where the run is."""


@dataclass(frozen=True)
class Launch:
    """Where this process stands."""

    by: Literal["t2x", "torchrun", "slurm"]
    """Who starts the processes; `t2x`: the first one starts the others of its machine."""
    rank: int
    """Of all processes of the run."""
    local_rank: int
    """Of those on this machine."""
    ranks: int | None
    """How many there are; None where `t2x` starts them, as the recipe says how many."""


def launched() -> Launch:
    """From the environment."""
    if TorchElasticEnvironment.detect():
        return Launch("torchrun", int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"]))
    if SLURMEnvironment.detect():
        there = SLURMEnvironment()
        return Launch("slurm", there.global_rank(), there.local_rank(), there.world_size())
    local_rank = int(os.environ.get("LOCAL_RANK", "0")) if RUN_FOLDER in os.environ else 0
    return Launch("t2x", local_rank, local_rank, None)


def connect(launch: Launch, cpu: bool) -> None:
    """Opens the process group of processes that somebody else started, so that they can agree on the run's folder."""
    if launch.by == "t2x" or launch.ranks == 1 or dist.is_initialized():
        return
    if launch.by == "slurm":
        there = SLURMEnvironment()
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = there.main_address, str(there.main_port)
    gpu = not cpu and torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(launch.local_rank)
    assert launch.ranks is not None
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", rank=launch.rank, world_size=launch.ranks)


def agree_on(launch: Launch, decide: Callable[[], str]) -> str:
    """What `decide` returns on the first rank, on all of them; its UserError is raised on all of them, too."""
    if launch.by == "t2x":
        if launch.rank == 0:
            os.environ[RUN_FOLDER] = decide()
        return os.environ[RUN_FOLDER]
    if not dist.is_initialized():
        return decide()
    answer: list[tuple[str, UserError | None]] = [("", None)]
    if launch.rank == 0:
        try:
            answer = [(decide(), None)]
        except UserError as error:
            answer = [("", error)]
    dist.broadcast_object_list(answer)
    value, problem = answer[0]
    if problem is not None:
        raise problem
    return value
