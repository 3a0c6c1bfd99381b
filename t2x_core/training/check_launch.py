"""Whether the hardware, and whoever started the processes, fit the recipe: asked before anything is built."""

from __future__ import annotations

import os
import shutil
import sys

import torch

from t2x_core.errors import UserError
from t2x_core.recipe import TrainerConfig
from t2x_core.training.parallel.launch import Launch
from t2x_core.training.precision import device_count, has_gpu

ALONE = Launch()
TORCHRUN = "torchrun --nnodes={nodes} --nproc-per-node={devices} --rdzv-backend=c10d --rdzv-endpoint=HOST:29500"
"""How to start a run on several nodes; behind it goes `-m t2x_core.cli.main fit RECIPE …`."""


def check_launch(trainer: TrainerConfig, launch: Launch = ALONE) -> None:
    """UserError, with the key of the setting, if a run with these settings cannot start here."""
    gpus = torch.cuda.device_count()
    if trainer.accelerator == "gpu" and not gpus:
        raise UserError("torch sees no GPU", key="accelerator", hint="set it to cpu, or auto")
    if has_gpu(trainer.accelerator) and trainer.devices != "auto" and trainer.devices > gpus:
        raise UserError(f"there are {gpus} GPUs here, not {trainer.devices}", key="devices")
    trainer.check_ranks(device_count(trainer))
    _check_processes(trainer, launch)
    _check_precision(trainer)
    if trainer.compile:
        _check_compiler(trainer)


def _check_processes(trainer: TrainerConfig, launch: Launch) -> None:
    devices, nodes = device_count(trainer), trainer.num_nodes
    wanted = f"the recipe asks for {devices * nodes} (devices {devices} × num_nodes {nodes})"
    found, local = launch.ranks, launch.local_ranks
    if launch.by == "srun":
        if found != devices * nodes:
            options = f"--nodes={nodes} --ntasks-per-node={devices}"
            has = f"SLURM has {found} task{'s' if found != 1 else ''}"
            raise UserError(f"{has}, {wanted}", key="devices", hint=f"start it by srun {options}")
    elif found is not None:
        if found != devices * nodes or local not in (None, devices):
            each = local or max(1, found // nodes)
            who = "torchrun" if launch.by == "torchrun" else "rank 0"
            hint = f"set trainer.devices={each} trainer.num_nodes={found // each}"
            hint = hint if launch.by == "torchrun" else "do not edit the recipe while a run starts"
            raise UserError(f"{who} started {found} processes, {wanted}", key="devices", hint=hint)
    elif nodes > 1:
        start = TORCHRUN.format(nodes=nodes, devices=devices)
        raise UserError(
            f"nobody has started processes on {nodes} nodes",
            key="num_nodes",
            hint=f"use SLURM, or on each node: {start} -m t2x_core.cli.main fit …",
        )
    if found is not None and launch.local_rank >= devices:
        name = "SLURM_LOCALID" if launch.by == "srun" else "LOCAL_RANK"
        raise UserError(f"{name} is {launch.local_rank}, and there are {devices} devices a machine", key="devices")


def _check_precision(trainer: TrainerConfig) -> None:
    gpu = has_gpu(trainer.accelerator)
    if trainer.precision == "16-mixed" and not gpu:
        raise UserError("16-mixed needs a GPU", key="precision", hint="set it to auto")
    if trainer.precision.startswith("bf16") and gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError("this GPU has no bfloat16", key="precision", hint="set it to 16-mixed, or auto")


def _check_compiler(trainer: TrainerConfig) -> None:
    """torch.compile calls a C++ compiler for a CPU, and for a GPU (Triton) one of C."""
    if has_gpu(trainer.accelerator):
        variable, names = "CC", ["gcc", "clang", "cc"]
    else:
        variable, names = "CXX", [{"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")]
    asked = os.environ.get(variable, "").split()[:1]  # it may hold options
    if not any(map(shutil.which, asked or names)):
        looked = " or ".join(asked or names)
        raise UserError(f"there is no compiler here ({looked})", key="compile", hint=f"install one, or set {variable}")
