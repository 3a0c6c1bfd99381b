"""The processes that the first one starts on its machine as the other ranks."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from t2x_core.training.parallel.watch import CHILDREN, end

WELL = (None, 0, 128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes of a process that runs, is done, or has saved and stopped because it was asked to."""


class Launcher(_SubprocessScriptLauncher):
    """Lightning's, but if a child dies the run ends with a word (Lightning's kills this process without one)."""

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            CHILDREN.extend(self.procs)
            threading.Thread(target=observe, args=(self.procs,), name="children", daemon=True).start()
        return function(*args, **kwargs)


def observe(children: Sequence[subprocess.Popen[Any]], grace: float = 5.0) -> None:
    """Waits for a child that ends badly, then ends all of them and this process.

    It leaves `Watch`, which may know why, `grace` seconds to say so first.
    """
    while True:
        codes = [child.poll() for child in children]
        for rank, (child, code) in enumerate(zip(children, codes, strict=True), start=1):
            if code not in WELL:
                time.sleep(grace)
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
                end(f"rank {rank} (process {child.pid}) {how}")
        if None not in codes:
            return
        time.sleep(0.5)
