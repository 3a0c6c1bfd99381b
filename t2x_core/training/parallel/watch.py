"""A rank that dies stops the others: each process says every second that it lives, and looks whether the others do.

Without it the others would wait in a collective, which no Python code can leave, until its time-out half an hour later.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from typing import Any, NoReturn

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

log = logging.getLogger("t2x")

FAILED = 3
"""Exit code of a run whose training failed."""
CHILDREN: list[subprocess.Popen[Any]] = []
"""The other ranks that this process has started."""


def end(reason: str) -> NoReturn:
    """Ends this process and its children at once, whatever their main threads are waiting for."""
    print(f"t2x: training stopped: {reason}", file=sys.stderr, flush=True)
    for handler in log.handlers:
        handler.flush()
    for child in CHILDREN:
        child.kill()
    os._exit(FAILED)


class Watch(Callback):
    """Ends this process, with the reason, when another rank has failed or has said nothing for `patience` seconds.

    The first rank keeps a small key-value store for it, which has nothing to do with the collectives.
    """

    INTERVAL = 1.0

    def __init__(self, patience: float = 25.0) -> None:
        self.patience = patience
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size == 1 or self._thread is not None:
            return
        self._rank, self._ranks = trainer.global_rank, trainer.world_size
        where = [(os.environ.get("MASTER_ADDR", "127.0.0.1"), 0)]
        timeout = timedelta(seconds=self.patience)
        if self._rank == 0:
            host = where[0][0]
            self._store = dist.TCPStore(host, 0, self._ranks, True, timeout, wait_for_workers=False)
            where = [(host, self._store.port)]
        dist.broadcast_object_list(where)
        if self._rank:
            self._store = dist.TCPStore(*where[0], self._ranks, False, timeout, wait_for_workers=False)
        self._store.set(self._key("name"), f"process {os.getpid()} on {socket.gethostname()}")
        self._store.set(self._key("beat"), "0")
        dist.barrier()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._thread.start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._thread is None or self._over.is_set():
            return
        self._over.set()
        self._thread.join()
        self._store.set(self._key("beat"), "done")
        if self._rank == 0:  # the store ends with this process: others must not take that for a death
            deadline = time.monotonic() + self.patience
            while time.monotonic() < deadline and any(self._beat(rank) != b"done" for rank in range(self._ranks)):
                time.sleep(0.05)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tells the others; if this one only failed because another did, waits until it is known which."""
        if self._thread is None or isinstance(exception, KeyboardInterrupt):
            return
        if _is_from_another(exception):
            self._thread.join(self.patience + 10)
        message = f"rank {self._rank} failed: {exception.__class__.__name__}: {exception}"
        self._over.set()
        self._store.set("failure", f"{self._rank} {message}")
        time.sleep(3 * self.INTERVAL)  # they read it before the store goes with this process

    def _watch(self) -> None:
        last: dict[int, tuple[bytes, float]] = {}
        beats = 0
        while not self._over.wait(self.INTERVAL):
            beats += 1
            try:
                self._store.set(self._key("beat"), str(beats))
                now = time.monotonic()
                if self._store.check(["failure"]):
                    whose, message = self._store.get("failure").decode().split(" ", 1)
                    if int(whose) != self._rank:
                        end(message)
                    return
                for rank in range(self._ranks):
                    beat = self._beat(rank)
                    if beat == b"done" or rank not in last or beat != last[rank][0]:
                        last[rank] = beat, now
                    elif now - last[rank][1] > self.patience:
                        name = self._store.get(self._key("name", rank)).decode()
                        end(f"rank {rank} ({name}) has stopped without a word: killed, or out of memory?")
                        return
            except (RuntimeError, ValueError) as error:
                if not self._over.is_set():
                    end(f"rank 0, which the others talk to, is gone ({str(error).splitlines()[0]})")
                return

    def _key(self, what: str, rank: int | None = None) -> str:
        return f"{what}/{self._rank if rank is None else rank}"

    def _beat(self, rank: int) -> bytes:
        return bytes(self._store.get(self._key("beat", rank)))


def _is_from_another(exception: BaseException) -> bool:
    """Whether it says that a connection to another rank broke."""
    text = str(exception).lower()
    words = ("gloo", "nccl", "connection", "peer", "socket", "timed out", "process group")
    return isinstance(exception, RuntimeError) and any(word in text for word in words)
