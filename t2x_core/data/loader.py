"""The loader of keyed samples. It says what its processes read, so that one that hangs or dies can be named."""

from __future__ import annotations

import logging
import pickle
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from t2x_core.awake import AwakeClock
from t2x_core.calls import Calls
from t2x_core.data.repeat import first_difference
from t2x_core.data.text import Tokenizer
from t2x_core.errors import TrainingError, UserError
from t2x_core.interfaces import Source
from t2x_core.signals import leave_signals_to_the_main_process
from t2x_core.types import Batch, Bucket, Sample, SampleKey

log = logging.getLogger("t2x")


class Reading:
    """What each loader process is reading, in memory that they share with the training process.

    Args:
        sources: task name → its samples.
        workers: loader processes; 0 = the training process reads.
    """

    def __init__(self, sources: Mapping[str, Source], workers: int) -> None:
        self.sources = dict(sources)
        self._tasks = list(sources)
        # A row for each process: since when it reads (ns of the clock that all processes share; 0: not), and the key.
        self._rows = torch.zeros(max(1, workers), 1 + len(SampleKey._fields), dtype=torch.int64).share_memory_()

    @contextmanager
    def of(self, key: SampleKey) -> Iterator[None]:
        """Inside, this process reads the sample `key`."""
        process = get_worker_info()
        row = self._rows[process.id if process else 0]
        row[1:] = torch.tensor([self._tasks.index(key.task), *key[1:]])
        row[0] = time.monotonic_ns()
        try:
            yield
        finally:
            row[0] = 0

    def longest(self) -> tuple[int, SampleKey, float] | None:
        """Who has been reading one sample for longest: (process, sample, seconds); None if nobody reads."""
        rows = [(since, process, *key) for process, (since, *key) in enumerate(self._rows.tolist()) if since]
        if not rows:
            return None
        since, process, task, *rest = min(rows)
        return process, SampleKey(self._tasks[task], *rest), (time.monotonic_ns() - since) / 1e9

    def describe(self, key: SampleKey) -> str:
        """ "cats/1.jpg (sample 12 of bucket 0 of text-to-image)"."""
        place = f"sample {key.id} of bucket {key.bucket} of {key.task}"
        name = self.sources[key.task].name(key)
        return f"{name} ({place})" if name else place


class KeyedDataset(Dataset[Sample]):
    """The sources of all tasks, read by key, a batch at a time.

    Args:
        sources: task name → its samples.
        reading: where each process says what it reads.
        tokenizer: makes the text encoders' numbers of the captions; None: nothing reads text.
        calls: knows which plugin each task is of.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        reading: Reading,
        tokenizer: Tokenizer | None = None,
        calls: Calls | None = None,
    ) -> None:
        self.sources, self.reading = dict(sources), reading
        self.tokenizer, self.calls = tokenizer, calls or Calls()
        self._seen: set[str] = set()  # tasks of which this process has looked at a batch

    def __getitem__(self, key: SampleKey) -> Sample:
        with self.reading.of(key), self.calls(f"tasks.{key.task}.data", "reading", key):
            return self.sources[key.task][key]

    def read(self, keys: Sequence[SampleKey], short: bool = True) -> Batch:
        """The batch of these keys, all of one task and bucket, with its texts tokenized (`short`: cut to the longest).

        UserError, with the name of the plugin, if it is not what the keys ask for.
        """
        task, samples = keys[0].task, [self[key] for key in keys]
        source, first = self.sources[task], task not in self._seen
        if first:
            again = self[keys[0]]
            with self.calls(f"tasks.{task}.data", "reading", keys[0], code_of(source)):
                check_repeats(samples[0], again)
        with self.calls(f"tasks.{task}.data", "collate", keys[0], source.collate):
            batch = source.collate(samples)
            check_batch(batch, source.buckets()[keys[0].bucket], keys, values=first)
        self._seen.add(task)
        if self.tokenizer is None:
            return batch
        return self.tokenizer.put(batch, short)

    def __getitems__(self, keys: Sequence[SampleKey]) -> Batch | UserError:
        """The batch of these keys, all of one task.

        A UserError is handed over: if a worker process raised it, torch would raise another in the main process, with
        a traceback for a message.
        """
        try:
            return self.read(keys)
        except UserError as error:
            return error


def code_of(source: Source) -> list[Any]:
    """Where the samples of a source are made: its own methods, or functions that it was given."""
    return [type(source).load, type(source).vary, *vars(source).values()]


def check_repeats(sample: object, again: object) -> None:
    """ValueError if two readings of one key differ."""
    if (where := first_difference(sample, again)) is not None:
        raise ValueError(
            f"the same key gives another {where} the second time; what is random comes from keyed.generator(seed, "
            '"<what>", …) with the numbers of the key, and nothing else'
        )


def check_pickles(source: Source) -> None:
    """ValueError if a source cannot go to a loader process. Of a large one, the beginning is looked at."""
    try:
        pickle.Pickler(_Sink()).dump(source)
    except _EnoughError:
        pass
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise ValueError(
            f"it cannot be pickled: {error}; a lambda, a local function, an open file or a lock cannot be: use "
            "functools.partial, and paths"
        ) from error


class _EnoughError(Exception):
    pass


class _Sink:
    """A file that takes so many bytes, and keeps none."""

    def __init__(self, most: int = 2**24) -> None:
        self.left = most

    def write(self, data: bytes) -> int:
        self.left -= len(data)
        if self.left < 0:
            raise _EnoughError
        return len(data)


def check_batch(batch: Batch, bucket: Bucket, keys: Sequence[SampleKey], values: bool) -> None:
    """ValueError if a batch is not of the keys that were asked for, or not of its bucket's shape.

    Args:
        values: whether the pixels are looked at, too, which takes a moment: finite, and in [-1, 1].
    """
    if not isinstance(batch, Batch):
        raise TypeError(f"it must return a Batch, not {type(batch).__name__}")
    if tuple(batch.keys) != tuple(keys):
        raise ValueError("the batch has not the keys that were asked for: a sample keeps the key that it is read by")
    if batch.task != keys[0].task:
        raise ValueError(f'the batch is of the task "{batch.task}", not "{keys[0].task}"')
    if len(batch.captions) != len(keys):
        raise ValueError(f"there are {len(batch.captions)} captions for {len(keys)} samples")
    shape = (bucket.frames, bucket.height, bucket.width)
    if tuple(batch.shape) != shape:
        raise ValueError(
            f"samples of bucket {keys[0].bucket} are {shape} (F, H, W), but these are {tuple(batch.shape)}"
        )
    if batch.pixels is None and batch.latents is None:
        raise ValueError("the batch has neither pixels nor latents")
    fresh = len(keys) if batch.unencoded is None else len(batch.unencoded)
    for name, pixels in {"pixels": batch.pixels, **batch.controls}.items():
        if pixels is None:
            continue
        count = fresh if name == "pixels" or name in batch.encoded_controls else len(keys)
        if not pixels.is_floating_point() or pixels.ndim != 5 or pixels.shape[:2] != (count, 3):
            found = f"{str(pixels.dtype).removeprefix('torch.')} {tuple(pixels.shape)}"
            raise ValueError(f"{name} are {found}, not floating-point ({count}, 3, F, H, W)")
        if values and not bool((pixels.abs() <= 1 + 1e-3).all()):
            low, high = pixels.min().item(), pixels.max().item()
            raise ValueError(f"{name} go from {low:g} to {high:g}; they must be finite and in [-1, 1]")
    for name, value in batch.extra.items():
        if len(value) != len(keys):
            raise ValueError(f'extra "{name}" has {len(value)} entries for {len(keys)} samples')


class KeyedLoader(DataLoader[Sample]):
    """Batches of keyed samples, in the order of a batch sampler.

    Args:
        sources: task name → its samples.
        batches: batch sampler that gives lists of keys.
        workers: loader processes; 0 = load in the training process.
        stall_minutes: so long without a batch from the processes is a TrainingError that names what is being read;
            without processes, which nothing can interrupt, it is a warning. None: wait for ever.
        tokenizer, calls: see `KeyedDataset`.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        batches: Any,
        workers: int,
        stall_minutes: float | None = None,
        tokenizer: Tokenizer | None = None,
        calls: Calls | None = None,
    ) -> None:
        self.reading, self.stall_minutes = Reading(sources, workers), stall_minutes
        super().__init__(
            KeyedDataset(sources, self.reading, tokenizer, calls),
            batch_sampler=batches,
            collate_fn=_as_it_is,  # `__getitems__` has made the batch
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            worker_init_fn=leave_signals_to_the_main_process,
            timeout=60 * (stall_minutes or 0) if workers else 0,
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        with self._watch():
            batches = super().__iter__()
            end_by_kill(getattr(batches, "_workers", ()))
            if self.timeout:
                _wait_awake(batches)
            try:
                for batch in batches:
                    if isinstance(batch, UserError):
                        raise batch
                    yield batch
            except RuntimeError as error:
                if str(error).startswith("DataLoader timed out"):
                    raise self._stalled() from error
                raise dead_worker(error) or error from error
            except (ConnectionError, EOFError) as error:  # it died while it handed a batch over
                raise TrainingError("a loader process exited unexpectedly", hint=OUT_OF_MEMORY) from error

    def check_worker_number_rationality(self) -> None:
        """torch would warn, at length, of more processes than cores; `MixedData.describe` says it in a line."""

    def _stalled(self) -> TrainingError:
        found = self.reading.longest()
        who = "none of its processes says what it reads"
        if found is not None:
            process, key, seconds = found
            who = f"process {process} has been reading {self.reading.describe(key)} for {seconds / 60:.2g} minutes"
        return TrainingError(
            f"the loader gave no batch for {self.stall_minutes:g} minutes: {who}",
            hint="mend or remove what it reads, or raise trainer.stall_minutes; then --resume",
        )

    @contextmanager
    def _watch(self) -> Iterator[None]:
        """Inside, samples that the training process itself reads for too long are named in the log, once each."""
        if self.num_workers or self.stall_minutes is None:
            yield
            return
        limit, over = 60 * self.stall_minutes, threading.Event()
        interval = min(1.0, limit / 20)

        def watch() -> None:
            seen: SampleKey | None = None
            reported: SampleKey | None = None
            clock = AwakeClock(interval)
            while not over.wait(interval):
                found = self.reading.longest()
                key = None if found is None else found[1]
                if key != seen:
                    seen, clock = key, AwakeClock(interval)
                clock.tick()
                if key is not None and clock.seconds > limit and key != reported:
                    reported = key
                    log.warning("reading %s takes more than %g minutes", self.reading.describe(key), limit / 60)

        threading.Thread(target=watch, name="t2x-stall", daemon=True).start()
        try:
            yield
        finally:
            over.set()


OUT_OF_MEMORY = "the system does that when memory runs out: set fewer trainer.workers, then --resume"


def dead_worker(error: BaseException) -> TrainingError | None:
    """What happened, if torch says that a loader process died; it may say so in the midst of anything."""
    found = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) ([^.]*)", str(error))
    if not isinstance(error, RuntimeError) or found is None:
        return None
    hint = OUT_OF_MEMORY
    if "Bus error" in str(error):
        hint = "/dev/shm is full: enlarge it, or set fewer trainer.workers, then --resume"
    return TrainingError(f"a loader process (pid {found[1]}) {found[2]}", hint=hint)


def _as_it_is(batch: Any) -> Any:
    return batch


def _wait_awake(batches: Any) -> None:
    """Of the time-out of torch's iterator only seconds count in which this process runs: after Ctrl-Z or SLURM's
    suspend its processes go on reading, and the next batch may not be there at once."""
    once = batches._try_get_data

    def wait(timeout: float) -> tuple[bool, Any]:
        interval = min(1.0, timeout / 20)
        clock = AwakeClock(interval)
        while clock.seconds < timeout:
            there, batch = once(interval)
            if there:
                return there, batch
            clock.tick()
        return False, None

    batches._try_get_data = wait


def end_by_kill(workers: Sequence[Any]) -> None:
    """Processes that do not end by themselves get a SIGTERM from torch and from multiprocessing, which ours ignore: it
    becomes a SIGKILL, or a decoder that hangs would keep the training process from ending."""
    for worker in workers:
        worker.terminate, worker._popen.terminate = worker.kill, worker._popen.kill
