"""What `t2x cache` does."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.cache.store import Store, Writer
from t2x_core.errors import UserError
from t2x_core.module import T2XModule
from t2x_core.precompute.encode import BATCH, Add, encode_latents, encode_text, run, sample_cost
from t2x_core.precompute.part import Part, parse_part, part_of
from t2x_core.precompute.plan import Plan, make_plan
from t2x_core.precompute.tidy import differs, rewrite
from t2x_core.progress import Progress
from t2x_core.training.parallel import launched
from t2x_core.wording import counted, duration, file_size, first_of

TRIED = 3 * BATCH
"""Entries that are encoded to tell how long one takes, and by `--verify`."""


def run_cache(arguments: argparse.Namespace, check: Callable[[argparse.Namespace, Any], None]) -> int:
    """One call of `t2x cache`; its exit code."""
    launch = launched()
    part = parse_part(arguments.part) if arguments.part else part_of(launch.rank, launch.ranks or 1)
    assembly = load_assembly(arguments.recipe, arguments.overrides)
    check(arguments, assembly.recipe.cache)
    trainer = assembly.recipe.trainer
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)
    gpu = trainer.accelerator != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda", launch.local_rank) if gpu else torch.device("cpu")
    module = build_module(assembly)
    data = build_data(assembly, module)
    data.check()
    plan = make_plan(assembly, module, data)
    filling = Filling(module, plan, part, device, trainer.workers)
    print(filling.describe())
    if arguments.dry_run:
        print(filling.estimate())
    elif arguments.prune:
        print(filling.prune())
    elif arguments.verify:
        return filling.verify()
    else:
        print(filling.fill())
    return 0


class Filling:
    """The work on the cache of one recipe.

    Args:
        part: which share of it this process does.
    """

    def __init__(self, module: T2XModule, plan: Plan, part: Part, device: torch.device, workers: int) -> None:
        assert module.cache is not None
        assert module.cache.store is not None
        self.module, self.plan, self.part, self.device, self.workers = module, plan, part, device, workers
        self.store: Store = module.cache.store
        there = self.store.keys()
        self.latents = {key: one for key, one in plan.latents.items() if part.has(key) and key not in there}
        self.text = {key: one for key, one in plan.text.items() if part.has(key) and key not in there}
        self.present = len(there & plan.keys)

    def describe(self) -> str:
        parts = f" ({self.part})" if self.part.total > 1 else ""
        listed = [counted(len(self.plan.latents), "latent"), counted(len(self.plan.text), "text")]
        return (
            f"{self.store.folder}: {' and '.join(listed)}, {self.present:,} of them there; "
            f"to encode{parts}: {len(self.latents):,} and {len(self.text):,}"
        )

    def estimate(self) -> str:
        """Bytes and time, from a few entries that are encoded and not kept."""
        seconds = nbytes = 0.0
        for wanted, steps in self._kinds():
            some = {key: wanted[key] for key in random.Random(0).sample(sorted(wanted), min(TRIED, len(wanted)))}
            one = sample_cost(partial(steps, some), len(some))
            seconds, nbytes = seconds + one[0] * len(wanted), nbytes + one[1] * len(wanted)
        on = f"for this process on {self.device.type}"
        return f"that is {file_size(nbytes)}, {duration(seconds)} {on}; nothing was written"

    def fill(self) -> str:
        """Encodes all that is missing. What is written is safe, so the same command goes on where it was killed."""
        writer = Writer(self.store.folder)
        try:
            with writer:
                for wanted, steps in self._kinds():
                    what = "latents" if wanted is self.latents else "text"
                    run(steps(wanted, writer.add), Progress(what, len(wanted), print))
        except KeyboardInterrupt:
            print(f"{counted(writer.written, 'entry')} encoded and kept; the same command goes on")
            raise
        try:
            self.store.write_index()
        except OSError as error:
            print(f"the index cannot be written ({error.strerror}); the cache is whole without it")
        left = len(self.latents) + len(self.text) - writer.written
        lost = f"; {counted(left, 'sample')} could not be read" if left else ""
        return f"{counted(writer.written, 'entry')} encoded, {file_size(self.store.nbytes())} in all{lost}"

    def prune(self) -> str:
        """Removes what the plan does not want."""
        wanted = self.plan.keys
        gone, freed, _ = rewrite(self.store.folder, wanted.__contains__)
        return f"{gone:,} entries removed that this recipe does not use, {file_size(freed)} free"

    def verify(self) -> int:
        """Reads all entries, and encodes some again; 0 if all are as they should be, else 1."""
        _, _, damaged = rewrite(self.store.folder, lambda key: True)
        self.store.refresh()
        wrong: list[str] = []
        tried = 0
        for wanted, steps in self._kinds(present=True):
            keys = sorted(key for key in wanted if key in self.store)
            some = {key: wanted[key] for key in random.Random(0).sample(keys, min(TRIED, len(keys)))}

            def compare(key: bytes, record: Mapping[str, Tensor], wanted: Any = wanted) -> None:
                if (how := differs(self.store, key, dict(record))) is not None:
                    wrong.append(f"{wanted[key][1] if isinstance(wanted[key], tuple) else self._name(key)}: {how}")

            run(steps(some, compare), Progress("encoding again", len(some), print))
            tried += len(some)
        for line in damaged:
            print(f"damaged and removed: {line}")
        if wrong:
            raise UserError(
                f"{len(wrong)} of {tried} entries are not what is encoded now: {first_of(wrong)}",
                hint=f"remove the cache, {self.store.folder}, and encode it anew",
            )
        print(f"{len(self.store):,} entries are what was written; {tried} were encoded again and are the same")
        return 1 if damaged else 0

    def _name(self, key: bytes) -> str:
        one = self.plan.latents[key]
        return one.source.name(one.variation.key) or f"sample {one.variation.key.id} of {one.variation.key.task}"

    def _kinds(self, present: bool = False) -> list[tuple[dict[bytes, Any], Callable[[Any, Add], Any]]]:
        """What is to be encoded (or, `present`, all that is wanted), and how."""
        latents, text = (self.plan.latents, self.plan.text) if present else (self.latents, self.text)
        kinds: list[tuple[dict[bytes, Any], Callable[[Any, Add], Any]]] = [
            (latents, lambda some, add: encode_latents(self.module, some, add, self.device, self.workers)),
            (text, lambda some, add: encode_text(self.module, some, add, self.device)),
        ]
        return [(wanted, how) for wanted, how in kinds if wanted]
