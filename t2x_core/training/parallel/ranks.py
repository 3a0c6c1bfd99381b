"""The processes of one run: they meet, compare what they have, do as the first decides, and end together."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.utilities.rank_zero import rank_zero_only

from t2x_core.assembly import Assembly
from t2x_core.data.mixture import MixedData
from t2x_core.errors import UserError
from t2x_core.signals import exit_code
from t2x_core.training.parallel import children, sameness, store
from t2x_core.training.parallel.heartbeat import FAILED, RankHeartbeat, is_from_another
from t2x_core.training.parallel.launch import Launch
from t2x_core.training.parallel.strategies import TIMEOUT
from t2x_core.training.precision import device_count, has_gpu

T = TypeVar("T")


class Ranks:
    """A context, entered as early as can be: from then on a rank that fails, or dies, ends the others.

    Whatever leaves the context as an exception ends all ranks, with one line and the same exit code.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self._store: dist.Store | None = None
        self._heartbeat: RankHeartbeat | None = None
        self._connected = False

    def __enter__(self) -> Ranks:
        self.launch.check_parent()
        if (self.launch.ranks or 1) > 1:
            self._join()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, SystemExit):
            self.failed(error)
        elif error is None and self._heartbeat is not None:
            self._heartbeat.done()

    def failed(self, error: BaseException) -> None:
        """Tells the others; if this rank only failed because another did, waits until it is known which."""
        if self._heartbeat is None:
            return
        if is_from_another(error):
            self._heartbeat.wait()
        self._heartbeat.failed(*_reason(error))

    def connect(self, assembly: Assembly, data: MixedData, **options: Any) -> None:
        """Starts the other ranks if this process is to, opens the process group, and compares what the ranks have.

        Args:
            data: checked (`MixedData.check`).
            options: what the command line says besides the recipe.

        Raises:
            UserError: ranks did not come.
            SystemExit: they differ; which one, and in what, has been printed.
        """
        if self._connected:
            return
        self._connected = True
        trainer = assembly.recipe.trainer
        if self.launch.ranks is None:
            devices = device_count(trainer)
            self.launch = replace(self.launch, ranks=devices, local_ranks=devices)
            if devices > 1:
                self._join()
                children.start(devices, self.launch.port)
        rank_zero_only.rank = self.launch.rank  # type: ignore[attr-defined]
        if self.launch.ranks == 1 and trainer.strategy == "auto":
            return
        gpu = has_gpu(trainer.accelerator)
        if gpu:
            torch.cuda.set_device(self.launch.local_rank)
        if self._store is None:
            self._store = dist.HashStore()
        else:
            store.wait_for_ranks(self._store, self.launch, "name")
            self._store.set_timeout(TIMEOUT)
            self._compare(self._store, sameness.facts(assembly, data, options))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            store=dist.PrefixStore("group", self._store),
            rank=self.launch.rank,
            world_size=self.launch.ranks or 1,
            timeout=TIMEOUT,
        )

    def decide(self, choose: Callable[[], T]) -> T:
        """What `choose` returns on the first rank, on all of them. If it raises a UserError there, all ranks end."""
        if not _several():
            return choose()
        answer: list[tuple[T | None, UserError | None]] = [(None, None)]
        if self.launch.rank == 0:
            try:
                answer = [(choose(), None)]
            except UserError as error:
                answer = [(None, error)]
        dist.broadcast_object_list(answer)
        value, problem = answer[0]
        if problem is not None:
            self._end_all(str(problem))
        return value  # type: ignore[return-value]

    def agree(self, problem: str | None) -> None:
        """Ends all ranks if one of them has a problem, with the line of the first that has."""
        if not _several():
            if problem is not None:
                raise UserError(problem)
            return
        everyone: list[str | None] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, problem)
        if found := next((text for text in everyone if text is not None), None):
            self._end_all(found)

    def _compare(self, shared: dist.Store, own: sameness.Facts) -> None:
        """Before there is a process group: with other hardware it might not come about."""
        rank, ranks = self.launch.rank, self.launch.ranks or 1
        own = json.loads(json.dumps(own, default=str))
        if rank == 0:
            shared.set("facts", json.dumps(own))
        else:
            shared.set(f"difference/{rank}", sameness.difference(rank, own, json.loads(shared.get("facts"))) or "")
        if rank == 0:
            found = [shared.get(f"difference/{other}").decode() for other in range(1, ranks)]
            shared.set("different", next(filter(None, found), ""))
        if line := shared.get("different").decode():
            self._end_all(line)

    def _end_all(self, line: str) -> NoReturn:
        """Prints the line once for each machine, as launchers may keep the output of each apart."""
        assert self._store is not None
        if self.launch.local_rank == 0:
            print(f"t2x: {line}", file=sys.stderr, flush=True)
        # A launcher that sees one rank end kills the others, and the store ends with the first: not before all know.
        self._store.add("ended", 1)
        deadline = time.monotonic() + 10
        while self._store.add("ended", 0) < (self.launch.ranks or 1) and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.launch.rank == 0 and not self.launch.served:
            time.sleep(0.5)  # the others have asked for the last time
        raise SystemExit(2)

    def _join(self) -> None:
        launch = self.launch
        if launch.rank == 0 and not launch.served:
            kept = store.serve(launch)
            launch = self.launch = replace(launch, port=kept.port)
        else:
            kept = store.connect(launch)
        self._store = store.of_job(kept, launch)
        self._heartbeat = RankHeartbeat(launch)


def _several() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


def _reason(error: BaseException) -> tuple[str, int]:
    """What the other ranks say, and their exit code."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", exit_code(error)
    text = str(error).strip().splitlines()
    return f"{error.__class__.__name__}{f': {text[-1]}' if text else ''}", FAILED
