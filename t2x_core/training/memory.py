"""How much memory a run takes."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

import torch

from t2x_core.free_memory import GIB


def memory() -> dict[str, float]:
    """Memory in GiB, by whose it is.

    `process`: resident memory of this process (where there is no /proc: its peak; on Windows: left out).
    `workers`: the same of its loader processes, if it has any; pages that they share with it count once for each.
    `gpu_peak`: the most that tensors took on the device since the start, if it is a GPU.
    """
    found = {}
    if (own := _resident(os.getpid())) is not None:
        found["process"] = own / GIB
    workers = [_resident(child.pid) or 0 for child in multiprocessing.active_children() if child.pid]
    if workers:
        found["workers"] = sum(workers) / GIB
    if torch.cuda.is_initialized():
        found["gpu_peak"] = torch.cuda.max_memory_allocated() / GIB
    return found


def _resident(pid: int) -> int | None:
    """Bytes of a process that are in memory; None where the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # another system, or a process that has just ended
        pass
    if pid != os.getpid() or sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
