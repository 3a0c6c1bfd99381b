"""A rank that dies stops the others: each process says every second that it lives, and looks whether the others do.

Without it the others would wait in a collective, which no Python code can leave, until its time-out many hours later.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any, NoReturn

from t2x_core.awake import AwakeClock
from t2x_core.errors import TrainingError
from t2x_core.training.parallel.launch import Launch
from t2x_core.training.parallel.store import of_job, open_client

log = logging.getLogger("t2x")

FAILED = 3
"""Exit code of a run whose training failed."""
CHILDREN: list[subprocess.Popen[Any]] = []
"""The other ranks that this process has started."""


def end(reason: str, code: int = FAILED) -> NoReturn:
    """Ends this process and its children at once, whatever their main threads are waiting for."""
    try:
        print(f"t2x: training stopped: {reason}", file=sys.stderr, flush=True)
        for handler in log.handlers:
            handler.flush()
    except OSError:
        pass  # nobody reads it any more
    for child in CHILDREN:
        child.kill()
    os._exit(code)


class RankHeartbeat:
    """Ends this process, with the reason, when another rank has failed or has said nothing for `patience` seconds.

    The seconds are those in which this process ran itself: ranks that are all stopped, and go on one after the other,
    do not take each other for dead. It has a connection of its own to the store, since one that waits for a key lets
    nobody else ask.
    """

    INTERVAL = 1.0

    def __init__(self, launch: Launch, patience: float = 25.0) -> None:
        assert launch.ranks is not None
        self.launch, self.patience = launch, patience
        self._rank, self._ranks = launch.rank, launch.ranks
        self._store = of_job(open_client(launch), launch)
        self._over = threading.Event()
        self._clock, self._heard = AwakeClock(self.INTERVAL / 2), 0.0
        self._store.set(self._key("beat"), "0")
        self._store.set(self._key("name"), f"process {os.getpid()} on {socket.gethostname()}")
        self._thread = threading.Thread(target=self._watch, name="logging", daemon=True)
        self._thread.start()
        threading.Thread(target=self._tick, name="awake", daemon=True).start()

    def done(self) -> None:
        """This rank has ended well. The first one waits for the others, since the store ends with its process."""
        if self._over.is_set():
            return
        self._over.set()
        self._thread.join()
        try:
            self._store.set(self._key("beat"), "done")
            clock = AwakeClock(0.05)
            while self._rank == 0 and clock.seconds < self.patience and not self._all_done():
                time.sleep(0.05)
                clock.tick()
        except (RuntimeError, ValueError):
            pass  # the first rank is gone already, and has not waited

    def failed(self, message: str, code: int) -> None:
        """Makes the others end, too, with this reason and exit code."""
        if self._over.is_set():
            return
        self._over.set()
        self._thread.join()
        try:
            self._store.set("failure", json.dumps([self._rank, code, message]))
        except (RuntimeError, ValueError):
            return
        if self._rank == 0 and not self.launch.served:
            time.sleep(3 * self.INTERVAL)  # they read it before the store goes with this process

    def wait(self) -> None:
        """Waits for as long as it may take until it is known which other rank has failed; this process ends then."""
        self._thread.join(self.patience + 10)

    def _tick(self) -> None:
        """Ends this process if the store, and with it the first rank, does not answer any more."""
        while not self._over.wait(self.INTERVAL / 2):
            self._clock.tick()
            if self._clock.seconds - self._heard > self.patience:
                end("rank 0 has stopped without a word: the store that it keeps does not answer")

    def _watch(self) -> None:
        last: dict[int, tuple[bytes, float]] = {}
        beats = 0
        while not self._over.wait(self.INTERVAL):
            beats += 1
            try:
                self.launch.check_parent()
                self._store.set(self._key("beat"), str(beats))
                self._end_if_one_failed()
                for rank in self._came():
                    beat = self._beat(rank)
                    if beat == b"done" or rank not in last or beat != last[rank][0]:
                        last[rank] = beat, self._clock.seconds
                    elif self._clock.seconds - last[rank][1] > self.patience:
                        name = self._store.get(self._key("name", rank)).decode()
                        end(f"rank {rank} ({name}) has stopped without a word: killed, or out of memory?")
                self._heard = self._clock.seconds
            except TrainingError as error:
                end(str(error))
            except (RuntimeError, ValueError) as error:
                if not self._over.is_set() and not self._connected_again():
                    end(f"rank 0, which the others talk to, is gone ({str(error).splitlines()[0]})")

    def _end_if_one_failed(self) -> None:
        if self._store.check(["failure"]):
            whose, code, message = json.loads(self._store.get("failure"))
            if whose != self._rank and not self._over.is_set():
                end(f"rank {whose}: {message}", code)

    def _connected_again(self) -> bool:
        """Whether the store is there still: a question may have run out of time while this process was stopped."""
        try:
            socket.create_connection((self.launch.address, self.launch.port), timeout=5).close()
            self._store = of_job(open_client(self.launch), self.launch)
        except (RuntimeError, OSError):
            return False
        return True

    def _came(self) -> list[int]:
        return [rank for rank in range(self._ranks) if self._store.check([self._key("name", rank)])]

    def _key(self, what: str, rank: int | None = None) -> str:
        return f"{what}/{self._rank if rank is None else rank}"

    def _beat(self, rank: int) -> bytes:
        return bytes(self._store.get(self._key("beat", rank)))

    def _all_done(self) -> bool:
        return all(self._beat(rank) == b"done" for rank in range(self._ranks))


def is_from_another(exception: BaseException) -> bool:
    """Whether it says that a connection to another rank broke."""
    text = str(exception).lower()
    words = ("gloo", "nccl", "connection", "peer", "socket", "timed out", "process group")
    return isinstance(exception, RuntimeError) and any(word in text for word in words)
