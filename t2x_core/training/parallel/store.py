"""The key-value store by which ranks find each other and hear that the others live; the first rank keeps it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import threading
import time
from datetime import timedelta

import torch.distributed as dist

from t2x_core.errors import UserError
from t2x_core.training.parallel.launch import Launch

log = logging.getLogger("t2x")

UNREACHABLE = 45.0
"""Seconds after which an address without an answer, not even a refusal, is taken for a wrong one."""
NOTICE = 10.0
"""Seconds of waiting after which it is said for what."""
TIMEOUT = timedelta(seconds=10)
"""Of one question to the store, which is answered at once if all is well."""


def serve(launch: Launch) -> dist.TCPStore:
    """The store itself, for the first rank; UserError if it cannot be where the others look for it."""
    try:
        store = dist.TCPStore("127.0.0.1", launch.port, None, True, TIMEOUT, wait_for_workers=False)
    except (RuntimeError, OSError) as error:
        if "address already in use" not in str(error).lower() and getattr(error, "errno", None) != errno.EADDRINUSE:
            raise
        raise UserError(
            f"port {launch.port}, at which the ranks are to meet, is taken on this machine",
            where="environment",
            hint="set MASTER_PORT to a free port, the same for all ranks",
        ) from error
    try:
        socket.create_connection((launch.address, store.port), timeout=UNREACHABLE / 3).close()
    except OSError as error:
        raise UserError(
            f"rank 0 does not reach itself at {launch.address}, port {store.port} ({_reason(error)})",
            where="environment",
            hint="set MASTER_ADDR to the name of the machine of rank 0, or unset it",
        ) from error
    return store


def connect(launch: Launch) -> dist.TCPStore:
    """A connection to the store of the first rank, once it is there.

    Raises:
        UserError: it does not come, or the address is wrong.
        TrainingError: the process that started this one has ended.
    """
    where = f"{launch.address}, port {launch.port}"
    began, reported = time.monotonic(), False
    while True:
        launch.check_parent()
        try:
            socket.create_connection((launch.address, launch.port), timeout=5).close()
            break
        except OSError as error:
            waited = time.monotonic() - began
            refused = isinstance(error, ConnectionRefusedError)
            if waited > (launch.patience if refused else min(UNREACHABLE, launch.patience)):
                raise UserError(
                    f"rank {launch.rank} waited {waited:.0f} s for rank 0 at {where}: {_reason(error)}",
                    where="environment",
                    hint="start all ranks, and set MASTER_ADDR and MASTER_PORT to where rank 0 is; "
                    f"or unset {_variables(launch)}",
                ) from error
            if waited > NOTICE and not reported:
                reported = True
                notice(f"rank {launch.rank} waits for rank 0 at {where}")
            time.sleep(0.3)
    try:
        return open_client(launch)
    except RuntimeError as error:
        raise UserError(
            f"what answers at {where} is not rank 0 of this run",
            where="environment",
            hint="set MASTER_PORT to a free port, the same for all ranks",
        ) from error


def open_client(launch: Launch) -> dist.TCPStore:
    """A connection to the store that is there; RuntimeError if it is not.

    torch waits for ever for a greeting from what takes the connection and then says nothing: hence the thread.
    """
    opened: list[dist.TCPStore] = []

    def greet() -> None:
        with contextlib.suppress(RuntimeError, ValueError):
            opened.append(dist.TCPStore(launch.address, launch.port, None, False, TIMEOUT, wait_for_workers=False))

    thread = threading.Thread(target=greet, name="greet", daemon=True)
    thread.start()
    thread.join(2 * TIMEOUT.total_seconds())
    if not opened:
        raise RuntimeError("it does not answer as a store does")
    return opened[0]


def of_job(store: dist.Store, launch: Launch) -> dist.Store:
    """The store as this run sees it, which may share it with others."""
    return dist.PrefixStore(launch.job, store) if launch.job else store


def wait_for_ranks(store: dist.Store, launch: Launch, key: str) -> None:
    """Returns once each rank has set `key` with its number; UserError names those that do not come in time."""
    assert launch.ranks is not None
    missing = list(range(launch.ranks))
    began, reported = time.monotonic(), False
    while True:
        launch.check_parent()
        missing = [rank for rank in missing if not store.check([f"{key}/{rank}"])]
        if not missing:
            return
        waited = time.monotonic() - began
        names = f"rank{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing[:8]))}"
        names += f" and {len(missing) - 8} others" if len(missing) > 8 else ""
        if waited > launch.patience:
            raise UserError(
                f"{names} of {launch.ranks} did not come within {waited:.0f} s",
                where="environment",
                hint=f"start all of them (by torchrun, or by srun), or unset {_variables(launch)} to train with one",
            )
        if waited > NOTICE and not reported:
            reported = True
            notice(f"rank {launch.rank} waits for {names} of {launch.ranks}")
        time.sleep(0.2)


def notice(text: str) -> None:
    """A line on the terminal, of any rank."""
    os.write(2, f"t2x: {text}\n".encode())


def _variables(launch: Launch) -> str:
    return "SLURM_NTASKS and SLURM_PROCID" if launch.by == "srun" else "RANK, LOCAL_RANK and WORLD_SIZE"


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "there is no machine of that name"
    return "no answer" if isinstance(error, TimeoutError) else (error.strerror or str(error)).lower()
