"""The block `trainer` of a recipe: length, batch and hardware."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from t2x_core.errors import UserError
from t2x_core.recipe.components import Count, CountOrZero, Positive, multiples


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Length, batch and hardware."""

    max_steps: Count
    """Length of the training, in optimizer steps."""
    global_batch: Count
    """Samples of one optimizer step, over all devices and accumulation together."""
    tokens_per_step: Count | None = None
    """Tokens of one optimizer step, about: instead of `global_batch`, a multiple of `batch_multiple` samples."""
    batch_multiple: Count = 8
    """What batches are multiples of, with `tokens_per_step`; all devices times accumulation must divide it."""
    accumulation: Count = 1
    """Gradient accumulation: micro-batches per device and optimizer step, to save memory."""
    devices: Count | Literal["auto"] = 1
    """Devices (processes) per node; `auto`: all available."""
    num_nodes: Count = 1
    """Machines of the run."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Kind of device; `auto`: a GPU if there is one."""
    strategy: Literal["auto", "ddp", "fsdp2", "hsdp"] = "auto"
    """How devices share the work; `auto`: one device, or ddp; `fsdp2`: each has a part of the weights."""
    shards: Count | None = None
    """Devices that share one copy of the weights (hsdp only); `null`: those of one node."""
    precision: Literal["auto", "32-true", "bf16-mixed", "bf16-true", "16-mixed"] = "auto"
    """Arithmetic; `auto`: bf16-mixed if there are units for it; `bf16-true`: bf16 weights, small updates are lost."""
    gradient_checkpointing: bool | Literal["selective"] = False
    """Recompute blocks in the backward pass; `selective`: everything except matmul and attention outputs."""
    compile: bool = False
    """Whether the blocks are compiled (torch.compile), once for each shape of a batch; needs a C++ compiler."""
    workers: CountOrZero = 0
    """Loader processes per device; `0`: samples are made in the training process."""
    stall_minutes: Positive | None = 10.0
    """Minutes without a batch from the loader after which training stops and names the file; `null`: never."""
    threads: Count | None = None
    """CPU threads per training process; `null`: what torch chooses."""

    def __post_init__(self) -> None:
        sharded = self.strategy in ("fsdp2", "hsdp")
        if sharded and self.precision == "16-mixed":
            raise UserError(f"16-mixed does not go with {self.strategy}", key="precision", hint="bf16-mixed does")
        if self.shards is not None and self.strategy != "hsdp":
            raise UserError("only hsdp has shards", key="shards", hint="set strategy: hsdp, or shards: null")
        if self.devices != "auto":  # else it is seen later how many there are
            self.check_ranks(self.devices)

    def check_ranks(self, devices: int) -> None:
        """UserError if the batch or the shards do not divide by so many devices a node."""
        ranks = devices * self.num_nodes
        if self.strategy == "hsdp":
            if ranks == 1:
                raise UserError("hsdp needs several devices", key="strategy", hint="set devices, or strategy: auto")
            shards = self.shards or devices
            if ranks % shards:
                raise UserError(
                    f"{ranks} devices do not divide into groups of {shards}; "
                    f"{', '.join(str(n) for n in range(1, ranks + 1) if ranks % n == 0)} do",
                    key="shards",
                )
        key = "global_batch" if self.tokens_per_step is None else "batch_multiple"
        self.check_parts(getattr(self, key), devices, key)

    def check_parts(self, batch: int, devices: int, key: str) -> None:
        """UserError, for the setting `key`, if a batch does not divide by so many devices a node and accumulation."""
        parts = devices * self.num_nodes * self.accumulation
        if batch % parts:
            raise UserError(
                f"{batch} does not divide into devices {devices} × num_nodes {self.num_nodes} × "
                f"accumulation {self.accumulation} = {parts} equal parts; {multiples(batch, parts)} do",
                key=key,
            )
