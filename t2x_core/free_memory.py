"""How much memory a process may still take: what is too large is said before it is asked for.

Linux gives memory that it does not have, and ends a process without a word when it is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GIB = 2**30


def free_memory() -> int | None:
    """Bytes: of the machine (swap included), of the control groups of this process (containers, SLURM), and of its own
    limit. None where none of them is known."""
    return min((room for room in (_machine(), *_groups(), _limit()) if room is not None), default=None)


def _machine() -> int | None:
    with suppress(OSError, ValueError, KeyError):
        lines = (line.partition(":") for line in Path("/proc/meminfo").read_text().splitlines())
        kib = {name: int(rest.split()[0]) for name, _, rest in lines}
        return 1024 * (kib["MemAvailable"] + kib.get("SwapFree", 0))
    return None


def _groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Of each control group with a limit, from this process's own up to the root; version 2, then 1."""
    with suppress(OSError):
        for line in own.read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                base, limit, used, cache = root, "memory.max", "memory.current", "inactive_file"
            elif "memory" in controllers.split(","):
                base, limit, used, cache = (
                    *(root / "memory", "memory.limit_in_bytes"),
                    *("memory.usage_in_bytes", "total_inactive_file"),
                )
            else:
                continue
            group = base / path.lstrip("/")
            for folder in (group, *group.parents):
                with suppress(OSError, ValueError):  # "max", or not there: a container sees its own group as the root
                    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                    taken = int((folder / used).read_text()) - int(stat.get(cache, 0))
                    yield max(0, int((folder / limit).read_text()) - taken)
                if folder == base:
                    break


def _limit() -> int | None:
    """Of `ulimit -v`."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            return max(0, soft - int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE"))
    return None
