"""What a recipe is to run on."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

from t2x_core.free_memory import GIB, free_memory


@dataclass(frozen=True)
class Machine:
    """A machine, as far as a recipe depends on it."""

    cores: int
    memory: float
    """GiB that training may take: of one GPU, or free ones of the machine."""
    gpu: str = ""
    """What the driver calls it; "": there is none."""
    gpus: int = 0
    pretrained: bool = False
    """Whether the extra `pretrained` is installed: VAEs and text encoders."""

    def __str__(self) -> str:
        if not self.gpu:
            return f"{self.cores} CPU cores, {self.memory:.0f} GiB free"
        several = f"{self.gpus} × " if self.gpus > 1 else ""
        return f"{several}{self.gpu}, {self.memory:.0f} GiB; {self.cores} CPU cores"


def this_machine() -> Machine:
    """The one that this runs on."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pretrained = all(importlib.util.find_spec(name) is not None for name in ("diffusers", "transformers"))
    if torch.cuda.is_available():
        room = torch.cuda.get_device_properties(0).total_memory
        return Machine(cores, room / GIB, torch.cuda.get_device_name(0), torch.cuda.device_count(), pretrained)
    return Machine(cores, (free_memory() or 8 * GIB) / GIB, pretrained=pretrained)
