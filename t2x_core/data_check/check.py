"""One check of a recipe: its files looked at in processes, and what is found in and between them."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from t2x_core.assembly import Assembly, build_data, build_module
from t2x_core.data_check.alike import Look, compare
from t2x_core.data_check.kinds import Finding
from t2x_core.data_check.known import Known, key_of
from t2x_core.data_check.look import LookJob, Seen, ThumbnailJob
from t2x_core.data_check.page import Summary, shown_places
from t2x_core.data_check.processes import Job, Lost, Processes
from t2x_core.data_check.texts import check_captions
from t2x_core.errors import UserError
from t2x_core.interfaces import TextEncoder
from t2x_core.inventory import Entry, Inventory
from t2x_core.media import Place, TarMember
from t2x_core.progress import Progress
from t2x_core.wording import counted

log = logging.getLogger("t2x")
BYTES_A_SECOND = 2**20
"""Of a file that a decoder reads at least: a large one may take longer before it is taken to hang."""
DROPPED = ("damaged", "duplicate", "no-caption")
"""Kinds of findings whose files `--fix` leaves out."""
_PRELOAD = ("t2x_core.data_check.look",)


class Check:
    """One check of a recipe.

    Args:
        seconds: after which a decoder that gives no sign of life is killed.
        ignored: kinds of findings that are not told.
    """

    def __init__(
        self, assembly: Assembly, name: str, workers: int, seconds: float, ignored: Collection[str], console: Console
    ) -> None:
        module = build_module(assembly, outline=True)
        data = build_data(assembly, module)
        self.assembly, self.name, self.ignored, self.console = assembly, name, ignored, console
        self.encoders: Mapping[str, TextEncoder] = module.encoders()
        self.processes: Processes[Seen] = Processes(workers, seconds, _PRELOAD)
        self.inventories: dict[str, Inventory] = {}
        self.blocks = data.blocks
        for task, one in data.modules.items():
            with data.located(task, "inventory"):
                if (inventory := one.inventory()) is not None:
                    self.inventories[task] = inventory
        if not self.inventories:
            raise UserError(f"the data of {name} is made on the fly: there are no files to check")
        self.seen: dict[tuple[str, int], Seen] = {}
        self.stopped = False

    @property
    def files(self) -> list[tuple[str, int, Entry]]:
        """(task, number, entry) of all."""
        return [(task, i, entry) for task, one in self.inventories.items() for i, entry in enumerate(one.entries)]

    def look(self) -> None:
        """Looks at all files; Ctrl-C ends that, and what was seen by then counts."""
        known = Known(self.name)
        jobs: list[tuple[tuple[str, int], LookJob, str | None]] = []
        for task, i, entry in self.files:
            inventory = self.inventories[task]
            job = LookJob(entry.place, inventory.reads == "videos", inventory.background)
            key = key_of(job)
            seen = None if key is None else known.get(key)
            if seen is None:
                jobs.append(((task, i), job, key))
            else:
                self.seen[task, i] = seen
        if self.seen:
            log.info("%s known from an earlier check, and unchanged", counted(len(self.seen), "file", "are"))
        try:
            with self._progress(len(jobs)) as add:
                numbered = ((n, job, _patience(job.place)) for n, (_, job, _) in enumerate(jobs))
                for number, answer in self.processes.run(numbered):
                    seen = Seen(answer.why, lasting=False) if isinstance(answer, Lost) else answer
                    own, _, key = jobs[number]
                    self.seen[own] = seen
                    if key is not None:
                        known.put(key, seen)
                    add(1)
        except KeyboardInterrupt:
            self.stopped = True
        finally:
            known.close()

    def findings(self) -> list[Finding]:
        """All, without those that are ignored."""
        return [finding for finding in self._findings() if finding.kind not in self.ignored]

    def _findings(self) -> Iterator[Finding]:
        looks: list[Look] = []
        for task, inventory in self.inventories.items():
            for problem in inventory.problems:
                yield Finding(problem.kind, task, problem.name, problem.detail, where=problem.where)
            seen = {i: self.seen[task, i] for i in range(len(inventory.entries)) if (task, i) in self.seen}
            good = [i for i in range(len(inventory.entries)) if i not in seen or seen[i].damage is None]
            held_out = frozenset(inventory.hold_out(good))
            for i, one in seen.items():
                entry = inventory.entries[i]
                if one.damage is not None:
                    yield Finding("damaged", task, entry.name, one.damage, entry)
                    continue
                looks.append(Look(task, entry, one, i in held_out))
                for kind, detail in () if entry.mask else (*one.signs, *_shape(inventory, one)):
                    yield Finding(kind, task, entry.name, detail, entry)
            yield from check_captions(task, inventory, self.encoders)
        yield from compare(looks)

    def thumbnails(self, summary: Summary) -> dict[Place, bytes]:
        """JPEGs of what the page shows."""
        wanted = [
            (place, ThumbnailJob(place, self.inventories[task].reads == "videos", self.inventories[task].background))
            for place, (task, _) in shown_places(summary).items()
        ]
        made: dict[Place, bytes] = {}
        jobs: Iterator[tuple[int, Job, float]] = ((n, job, 0.0) for n, (_, job) in enumerate(wanted))
        for number, answer in Processes[bytes](self.processes.workers, self.processes.seconds, _PRELOAD).run(jobs):
            if not isinstance(answer, Lost):
                made[wanted[number][0]] = answer
        return made

    def fix(self, findings: Sequence[Finding], file: Path) -> list[str]:
        """Writes manifests without the files that are damaged, copies or without captions; the settings that read
        them."""
        dropped = {(f.task, f.entry.place) for f in findings if f.kind in DROPPED and f.entry is not None}
        further: dict[tuple[str, Place], list[str]] = {}
        for finding in findings:
            if finding.kind == "duplicate" and finding.entry is not None:
                own = further.setdefault((finding.task, finding.others[0].place), [])
                own += finding.entry.captions
        settings: list[str] = []
        several = sum(one.write is not None for one in self.inventories.values()) > 1
        for task, inventory in self.inventories.items():
            if inventory.write is None:
                log.info(
                    "%s: a manifest cannot name these (objects, or files behind a URL); mend them where they are", task
                )
                continue
            kept = [
                _merged(entry, further.get((task, entry.place), ()))
                for entry in inventory.entries
                if (task, entry.place) not in dropped
            ]
            one = file.with_stem(f"{file.stem}-{task}") if several else file
            settings += [f"{self.blocks[task]}.{setting}" for setting in inventory.write(kept, one)]
            log.info("kept %d of %s → %s", len(kept), counted(len(inventory.entries), "file"), one)
        return settings

    @contextmanager
    def _progress(self, total: int) -> Iterator[Any]:
        if not self.console.is_terminal:
            lines: list[Progress] = []

            def add(count: int) -> None:
                if not lines:  # now the processes have started, which tells nothing of the rest
                    lines.append(Progress("checked", total, log.info))
                lines[0].add(count)

            yield add
            return
        columns = (TextColumn("[bold]checking"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeElapsedColumn())
        with Bar(*columns, TextColumn("left"), TimeRemainingColumn(), console=self.console) as bar:
            task = bar.add_task("", total=total)
            yield lambda count: bar.advance(task, count)


def _merged(entry: Entry, captions: Sequence[str]) -> Entry:
    """With the captions of its copies, too."""
    return replace(entry, captions=tuple(dict.fromkeys((*entry.captions, *captions)))) if captions else entry


def _patience(place: Place) -> float:
    """Seconds that a file may take beyond others, for its size."""
    try:
        size = place.length if isinstance(place, TarMember) else os.stat(place).st_size if isinstance(place, str) else 0
    except OSError:
        return 0.0
    return size / BYTES_A_SECOND


def _shape(inventory: Inventory, seen: Seen) -> Iterator[tuple[str, str]]:
    """What is to be said of a file's size."""
    short, long = sorted((seen.height, seen.width))
    size = f"{seen.height}×{seen.width} pixels"
    if inventory.size is not None and 2 * short < inventory.size:
        yield "small", f"has {size}, and samples are of about {inventory.size}×{inventory.size}"
    most = inventory.max_aspect_ratio
    if most is not None and long > 2 * most * short:
        yield "long", f"has {size}, {long / short:.3g} times as long as wide; the longest samples are {most:g} times"
