"""The processes that the first one starts on its machine as the other ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any

from lightning.fabric.strategies.launchers.subprocess_script import _basic_subprocess_cmd

from t2x_core.signals import STOPPING
from t2x_core.training.parallel.heartbeat import CHILDREN, FAILED, end
from t2x_core.training.parallel.launch import PARENT

WELL: tuple[int | None, ...] = (None, 0, *(128 + number for number in STOPPING))
"""Exit codes of a process that runs, is done, or has saved and stopped because it was asked to."""
MISTAKE = 2
"""Exit code of a process that has found a mistake of the user's."""


def start(ranks: int, port: int) -> None:
    """Starts ranks 1, 2 … of `ranks` by this process's own command, and ends with them if one ends badly."""
    for rank in range(1, ranks):
        variables = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": ranks,
            "LOCAL_WORLD_SIZE": ranks,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            PARENT: os.getpid(),
        }
        environment = os.environ | {name: str(value) for name, value in variables.items()}
        CHILDREN.append(subprocess.Popen(_basic_subprocess_cmd(), env=environment))
    threading.Thread(target=observe, args=(CHILDREN,), name="children", daemon=True).start()


def observe(children: Sequence[subprocess.Popen[Any]], grace: float = 5.0) -> None:
    """Waits for a child that ends badly, then ends all of them and this process.

    It leaves `RankHeartbeat`, which may know why, `grace` seconds to say so first.
    """
    while True:
        codes = [child.poll() for child in children]
        for rank, (child, code) in enumerate(zip(children, codes, strict=True), start=1):
            if code is not None and code not in WELL:
                time.sleep(grace)
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
                end(f"rank {rank} (process {child.pid}) {how}", code if code == MISTAKE else FAILED)
        if None not in codes:
            return
        time.sleep(0.5)
