"""TensorBoard's event files on a disk that may fill up: points wait until there is room, and training goes on."""

from __future__ import annotations

import io
import itertools
import logging
import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.writer import FileWriter, SummaryWriter

log = logging.getLogger("t2x")

INTERVAL = 2.0
"""Seconds that an event waits in memory, at most, before it is written with the next one."""
LARGEST_BACKLOG = 2**26
"""Bytes of events that are kept while the disk is full."""
_numbers = itertools.count()


class EventFile:
    """Appends events to a new file of `folder`. Each write is whole, or is undone and tried again later.

    It has the methods that torch's `FileWriter` calls of tensorboard's `EventFileWriter`, whose thread ends with a
    traceback, and the training with it, when the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        name = f"events.out.tfevents.{time.time():010.0f}.{platform.node()}.{os.getpid()}.{next(_numbers)}"
        self.file = folder / name
        self._size = 0
        """Bytes of the file that are whole events."""
        self._waiting = io.BytesIO()
        self._written_at, self._failed = 0.0, False
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add_event(self, event: Event) -> None:
        RecordWriter(self._waiting).write(event.SerializeToString())
        if time.monotonic() > self._written_at + INTERVAL:
            self.flush()

    def flush(self) -> None:
        """Writes what waits, if there is room for it."""
        self._written_at = time.monotonic()
        waiting = self._waiting.getvalue()
        if not waiting:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab") as stream:
                stream.write(waiting)
        except OSError as error:
            with suppress(OSError):
                os.truncate(self.file, self._size)  # nothing is read behind half an event
            if not self._failed:
                log.warning("TensorBoard's %s cannot be written (%s): training goes on", self.file, error.strerror)
            self._failed = True
            if len(waiting) > LARGEST_BACKLOG:
                self._waiting = io.BytesIO()
            return
        self._size += len(waiting)
        self._waiting = io.BytesIO()
        if self._failed:
            log.info("TensorBoard's %s can be written again", self.file)
            self._failed = False

    def get_logdir(self) -> str:
        return str(self.file.parent)

    def close(self) -> None:
        self.flush()


class EventWriter(SummaryWriter):
    """torch's writer on an `EventFile`."""

    file_writer: Any
    all_writers: Any

    def _get_file_writer(self) -> FileWriter:
        if self.file_writer is None:
            self.file_writer = _FileWriter(Path(self.log_dir))
            self.all_writers = {self.log_dir: self.file_writer}
            if self.purge_step is not None:  # later points of earlier files are hidden
                start = SessionLog(status=SessionLog.START)
                self.file_writer.add_event(Event(session_log=start), self.purge_step)
                self.purge_step = None
        return self.file_writer


class _FileWriter(FileWriter):
    def __init__(self, folder: Path) -> None:
        self.event_writer = EventFile(folder)


class EventLogger(TensorBoardLogger):
    """Lightning's logger on an `EventWriter`; `hparams.yaml` is left out, since a run's folder has its recipe."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = EventWriter(self.log_dir, **self._kwargs)
        return self._experiment

    @rank_zero_only
    def save(self) -> None:
        self.experiment.flush()
