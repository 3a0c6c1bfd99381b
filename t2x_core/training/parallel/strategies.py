"""Strategies: how devices share the work and the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from t2x_core.checkpoint import materialize
from t2x_core.interfaces import ConditioningAdapter
from t2x_core.module import T2XModule
from t2x_core.recipe import Recipe
from t2x_core.sharding import local
from t2x_core.tensor_files import StoredTensor
from t2x_core.training.checkpoint_io import SafeCheckpointIO

TIMEOUT = timedelta(hours=12)
"""Of a collective. `RankHeartbeat` notices a dead rank in seconds; this clock runs on while all ranks are paused."""


def build_strategy(recipe: Recipe) -> Strategy | str:
    """What Lightning's Trainer is given for `trainer.strategy`."""
    trainer = recipe.trainer
    several = trainer.devices == "auto" or trainer.devices * trainer.num_nodes > 1
    if trainer.strategy == "fsdp2":
        return ShardedStrategy(None)
    if trainer.strategy == "hsdp":
        return ShardedStrategy(trainer.shards, replicate=True)
    if trainer.strategy == "ddp" or several:
        # A step of one task leaves the adapters of the others without a gradient, one without alignment its projection.
        unused = len(recipe.tasks) > 1 or recipe.diffusion.repa is not None
        return ReplicatedStrategy(checkpoint_io=SafeCheckpointIO(), timeout=TIMEOUT, find_unused_parameters=unused)
    return "auto"


class ReplicatedStrategy(DDPStrategy):
    """DDP, of processes that are all started (`Ranks`)."""

    def _configure_launcher(self) -> None:
        """Lightning's would also set the number of threads."""


class ShardedStrategy(ReplicatedStrategy):
    """FSDP2: weights, gradients, optimizer and average are cut up over the ranks (`fully_shard`), each block by itself.

    With `replicate`, HSDP: `shards` ranks (None: those of one node) share one copy of the weights, and gradients are
    averaged over the copies. The process group is open by then (`Ranks`).
    """

    def __init__(self, shards: int | None, replicate: bool = False) -> None:
        super().__init__(checkpoint_io=SafeCheckpointIO(together=True), timeout=TIMEOUT)
        self.shards, self.replicate = shards, replicate

    def configure_ddp(self) -> None:
        module = self.lightning_module
        assert isinstance(module, T2XModule)
        shard(module, self._mesh())
        module.to(self.root_device)  # what is not sharded: buffers, what does not train
        self.model = module

    def model_to_device(self) -> None:
        """Not before it is sharded, which moves it block by block."""

    def _mesh(self) -> DeviceMesh:
        kind, ranks = self.root_device.type, self.world_size
        if not self.replicate:
            return init_device_mesh(kind, (ranks,), mesh_dim_names=("shard",))
        shards = self.shards or self.num_processes
        return init_device_mesh(kind, (ranks // shards, shards), mesh_dim_names=("replicate", "shard"))

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Every micro-batch's gradient is shared out at once, so that no rank ever holds the whole gradient."""
        yield

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        self.checkpoint_io.save_checkpoint(checkpoint, filepath)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        module = self.lightning_module
        assert isinstance(module, T2XModule)
        with torch.no_grad():
            for name, tensor in module.stored().items():
                local(tensor).copy_(local(checkpoint["state_dict"][name].like(tensor)))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        (optimizer,), (state,) = self.optimizers, checkpoint["optimizer_states"]
        parameters = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))

        def place(value: Any, parameter: nn.Parameter) -> Any:
            if isinstance(value, StoredTensor) and value.shape == parameter.shape:
                return value.like(parameter)
            return materialize(value)

        placed = {
            number: {name: place(value, parameters[number]) for name, value in of_parameter.items()}
            for number, of_parameter in state["state"].items()
        }
        optimizer.load_state_dict({"state": placed, "param_groups": state["param_groups"]})


def shard(module: T2XModule, mesh: DeviceMesh) -> None:
    """Shards all that trains: each block, then what holds it. Each root is entered by its own `forward` or `null`.

    Gathered weights are given up after each forward pass, those of the roots, too: the average's weights, put in for a
    validation, must not stay in a gathered copy. Adapters, which are small, keep theirs until the backward pass
    (`EMA` calls `reshard`), since what they return may be a view of a parameter.
    """
    for block in module.backbone.blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    for root in (
        module.backbone,
        *module.text_encoders.values(),
        *module.adapters.values(),
        *module.losses.values(),
        *([] if module.alignment is None else [module.alignment]),
    ):
        if any(p.requires_grad for p in root.parameters()):
            fully_shard(root, mesh=mesh, reshard_after_forward=not isinstance(root, ConditioningAdapter))
    for adapter in module.adapters.values():
        if isinstance(adapter, FSDPModule):
            register_fsdp_forward_method(adapter, "null")
