"""How much arithmetic a training step is, and how much a device could do: the two sides of the MFU.

MFU (model FLOPs utilization, Chowdhery et al. 2022, arXiv 2204.02311, appendix B): the floating-point operations that
the mathematics of a step needs, over those that the device could have done in its time. A product of matrices
(m, k) · (k, n) is 2·m·k·n operations; anything else is left out, and so is what is computed twice to save memory.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from t2x_core.data.mixture import MixedData
from t2x_core.module import T2XModule
from t2x_core.outline import fake_mode, outline_mode
from t2x_core.training.gpus import known_gpu
from t2x_core.types import Batch

log = logging.getLogger("t2x")


@dataclass(frozen=True)
class Peak:
    """What a device can do at most."""

    flops: float
    """Operations per second."""
    how: str
    """Where the figure is from, in words."""


def bucket_name(batch: Batch) -> str:
    """Task and shape, "text-to-image/1x64x48": frames, height and width in pixels."""
    return f"{batch.task}/{'x'.join(map(str, batch.shape))}"


@dataclass(frozen=True)
class StepFlops:
    """Operations of a step, by who does them."""

    trained: float
    """Forward and backward pass of what is trained."""
    codec: float = 0.0
    """Encoding of what comes as pixels."""
    text: float = 0.0
    """Frozen text encoders."""

    @property
    def total(self) -> float:
        return self.trained + self.codec + self.text

    def times(self, samples: float) -> StepFlops:
        return StepFlops(self.trained * samples, self.codec * samples, self.text * samples)

    def __str__(self) -> str:
        if not (self.codec or self.text):
            return in_flop(self.total)
        parts = {"trained": self.trained, "codec": self.codec, "text encoders": self.text}
        return f"{in_flop(self.total)} ({', '.join(f'{n} {in_flop(value)}' for n, value in parts.items() if value)})"


def in_flop(amount: float) -> str:
    """Operations as "3.2 GFLOP"."""
    for unit in ("", "k", "M", "G", "T", "P", "E"):
        if amount < 1000:
            return f"{amount:.3g} {unit}FLOP"
        amount /= 1000
    return f"{amount:.3g} ZFLOP"


def flops_by_bucket(module: T2XModule, data: MixedData) -> dict[str, StepFlops]:
    """Operations of one optimizer step of each bucket; `data` is checked (`MixedData.check`).

    One sample of each is read. Empty, with a line in the log, if a part of the model cannot be counted.
    """
    found: dict[str, StepFlops] = {}
    try:
        for task, modules in data.modules.items():
            for index, bucket in enumerate(modules.train_source().buckets()):
                if bucket.count:
                    batch = data.example(task, index)
                    if (name := bucket_name(batch)) not in found:
                        found[name] = step_flops(module, batch).times(data.batch_size(task, bucket))
    except Exception as error:  # a plugin's part may do anything, and no run should end for a figure
        log.info("no MFU: the FLOPs of a step cannot be counted (%s)", str(error).split("\n")[0])
        return {}
    return found


def step_flops(module: T2XModule, batch: Batch) -> StepFlops:
    """Operations of a training step for a batch on the CPU.

    Computed on tensors without content, before the module is moved or sharded. An attention is counted as the products
    that it is, whatever kernel will do it. The blocks are alike, or every other one is, so few of them say what all
    cost.
    """
    module.prepare(batch)  # a cache must not keep tensors without content
    with outline_mode(module.backbone) or fake_mode(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as codec:
            encoded = module.encode(batch)
        with FlopCounterMode(display=False) as text:
            names = module.frozen_encoders.keys() - batch.encoded_text.keys()
            texts = {name: module.encode_frozen(name, batch) for name in names}
        encoded = replace(encoded, encoded_text={**encoded.encoded_text, **texts})
        trained = _trained_flops(module, encoded)
    return StepFlops(trained, float(codec.get_total_flops()), float(text.get_total_flops()))


def _trained_flops(module: T2XModule, encoded: Batch) -> float:
    """Of the forward and backward pass of a batch with latents and frozen texts."""
    blocks = module.backbone.blocks
    few = 2 + len(blocks) % 2
    trained = [p for _, p in module.trainable()]

    def count() -> float:
        with FlopCounterMode(display=False) as counter:
            torch.autograd.grad(module.training_step(encoded, 0)["loss"], trained, allow_unused=True)
        return float(counter.get_total_flops())

    if len(blocks) <= few + 2:
        return count()
    try:
        module.backbone.blocks = blocks[:few]
        less = count()
        module.backbone.blocks = blocks[: few + 2]
        more = count()
    finally:
        module.backbone.blocks = blocks
    return less + (more - less) * (len(blocks) - few) / 2


def peak(device: torch.device, precision: str) -> Peak:
    """The peak of a device in the arithmetic of the run ("bf16-mixed", "32-true", …): by its name, else measured."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    exact = torch.get_float32_matmul_precision() == "highest"
    if (gpu := known_gpu(name)) is not None and (flops := gpu.flops(precision, exact)) is not None:
        return Peak(flops, f"data sheet of {name}")
    return Peak(measured_peak(device, torch.bfloat16 if precision.startswith("bf16") else torch.float32), "measured")


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a product of two square matrices: 4096² on a GPU, 1024² on a CPU; the best of 3."""
    n = 4096 if device.type == "cuda" else 1024
    a = torch.ones(n, n, device=device, dtype=dtype)

    def seconds() -> float:
        began = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    seconds()  # chooses kernels
    return 2 * n**3 / min(seconds() for _ in range(3))
