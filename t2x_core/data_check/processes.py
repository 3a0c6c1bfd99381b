"""Jobs in processes that may crash, hang or be killed: each job is answered, and names what it did."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

Beat = Callable[[], None]
Job = Callable[[Beat], Any]
"""A job, which pickles; it calls what it is given to say that it goes on."""
TURNS = 2000
"""Jobs after which a process is replaced, so that what decoders hold on to does not pile up."""
START = 600.0
"""Seconds that a process may take to start, on a machine that is busy."""
BEAT_EVERY = 1.0
"""Seconds between two signs of life."""
T = TypeVar("T")


@dataclass(frozen=True)
class Lost:
    """In place of an answer: what became of the process."""

    why: str
    """As in "makes the decoder crash"."""


class _Worker:
    """A process, and its current job."""

    def __init__(self, context: Any) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True, name="t2x data check")
        self.process.start()
        theirs.close()
        self.number: int | None = None
        self.alive_at, self.turns, self.limit, self.started = time.monotonic(), 0, 0.0, False

    def give(self, number: int, job: Job, limit: float) -> None:
        self.number, self.alive_at, self.limit, self.turns = number, time.monotonic(), limit, self.turns + 1
        self.connection.send(job)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class Processes(Generic[T]):
    """Does jobs in so many processes.

    Args:
        seconds: without an answer or a sign of life after which a process is killed.
        preload: modules that all of them need.
    """

    def __init__(self, workers: int, seconds: float, preload: Sequence[str] = ()) -> None:
        self.workers, self.seconds = workers, seconds
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self.context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            self.context.set_forkserver_preload(list(preload))  # a process that is replaced starts in a moment

    def run(self, jobs: Iterator[tuple[int, Job, float]]) -> Iterator[tuple[int, T | Lost]]:
        """Number and answer of each job (number, job, further seconds that it may take), as they come."""
        running: list[_Worker] = []
        free: list[_Worker] = []
        try:
            while True:
                while len(running) < self.workers and (following := next(jobs, None)) is not None:
                    number, job, more = following
                    worker = free.pop() if free else _Worker(self.context)
                    running.append(worker)
                    with suppress(OSError):  # it has died meanwhile, as will be seen
                        worker.give(number, job, self.seconds + more)
                if not running:
                    return
                ready = wait([worker.connection for worker in running], timeout=0.2)
                for worker in list(running):
                    answer = self._answer(worker, worker.connection in ready)
                    if answer is None:
                        continue
                    running.remove(worker)
                    assert worker.number is not None
                    if isinstance(answer[0], Lost) or worker.turns >= TURNS:
                        worker.end()
                    else:
                        free.append(worker)
                    yield worker.number, answer[0]
        finally:
            for worker in (*running, *free):
                worker.end()

    def _answer(self, worker: _Worker, ready: bool) -> tuple[T | Lost] | None:
        """The answer, if there is one by now."""
        if ready:
            try:
                kind, value = worker.connection.recv()
            except (EOFError, OSError):
                worker.process.join(5)
                return (Lost(_how_it_ended(worker.process.exitcode)),)
            worker.alive_at, worker.started = time.monotonic(), True
            return (value,) if kind == "done" else None
        if time.monotonic() - worker.alive_at > (worker.limit if worker.started else max(START, worker.limit)):
            return (Lost(f"makes the decoder hang (no sign of life for {worker.limit:.3g} s)"),)
        return None


def _how_it_ended(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "makes the decoder crash (the system killed it, most likely for its memory)"
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"makes the decoder crash ({signal.Signals(-code).name})"
    return "makes the decoder crash"


def _end_with(parent: int) -> None:
    """A decoder that hangs would outlive the process that asked."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def _serve(connection: Connection) -> None:
    """Does one job after the other, until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked, which ends this one
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with suppress(ImportError):
        import torch

        torch.set_num_threads(1)
    last = 0.0

    def beat() -> None:
        nonlocal last
        if (now := time.monotonic()) - last > BEAT_EVERY:
            last = now
            connection.send(("alive", None))

    while True:
        try:
            job = connection.recv()  # may import what the job needs
            connection.send(("alive", None))
        except (EOFError, OSError):
            return
        try:
            answer = job(beat)
        except (BrokenPipeError, ConnectionError):
            os._exit(0)
        except Exception as error:
            answer = Lost(f"cannot be decoded ({type(error).__name__}: {error})")
        connection.send(("done", answer))
