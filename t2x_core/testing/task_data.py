"""What is checked of a task's data."""

from __future__ import annotations

import multiprocessing
import pickle
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch

from t2x_core.data.loader import code_of
from t2x_core.data.repeat import first_difference
from t2x_core.entry_points import describe, place
from t2x_core.interfaces import Source
from t2x_core.recipe import Kind
from t2x_core.testing.base import PluginTests
from t2x_core.testing.rig import SAMPLES
from t2x_core.types import SampleKey

KEYED = 'what is random comes from keyed.generator(seed, "<what>", …) with the numbers of the key, and nothing else'
SPLITS = ("train", "val")


class TaskDataTests(PluginTests):
    """The part of `TaskTests` on data."""

    kind: ClassVar[Kind] = "task"

    def test_its_data_can_be_set_up_again(self) -> None:
        """data: prepare_data and setup may be called twice; the buckets hold as many samples as there are"""
        rig = self.rig
        before = [rig.source(split).buckets() for split in SPLITS]
        rig.data.check()
        if before != [rig.source(split).buckets() for split in SPLITS]:
            hint = "keep what prepare_data and setup find: both are called in every process, more than once"
            raise rig.refuse("its buckets are others after a second setup", hint, type(self._module()).setup)

    def test_its_batches_are_as_promised(self) -> None:
        """data: batches have the keys, shapes and types that buckets and settings promise, pixels in [-1, 1]"""
        for split in SPLITS:
            source = self.rig.source(split)
            for index, bucket in enumerate(source.buckets()[:8]):
                if bucket.count:
                    ids = sorted({0, bucket.count // 2, bucket.count - 1})
                    self.rig.read(split, [SampleKey(self.rig.task.name, index, id, 0, i) for i, id in enumerate(ids)])

    def test_the_same_key_gives_the_same_sample(self) -> None:
        """data: a sample is a function of its key, whatever was read before it"""
        for split in SPLITS:
            source = self.rig.source(split)
            keys = self.rig.keys(source)
            first = self._samples(source, keys)
            scatter()
            again = list(reversed(self._samples(source, list(reversed(keys)))))
            self._same(source, first, again, "when it is read again")

    def test_load_follows_from_what_vary_drew(self) -> None:
        """data: load makes the same of the same choices, in whatever turn"""
        for split in SPLITS:
            source = self.rig.source(split)
            for key in self.rig.keys(source):
                with self.rig.calls(self.rig.path, "vary and load", key, code_of(source)):
                    variation = source.vary(key)
                    later = replace(variation, key=key._replace(step=key.step + 7, slot=key.slot + 3))
                    first, again = (replace(source.load(one), key=key) for one in (variation, later))
                if (where := first_difference(first, again)) is not None:
                    hint = "draw it in vary, and hand it over in choices: cached latents are told apart by these"
                    raise self.rig.refuse(f"load makes another {where} of the same choices", hint, code_of(source))

    def test_its_sources_pickle(self) -> None:
        """data: sources go through pickle, to loader processes, and give the same samples there"""
        for split in SPLITS:
            source = self.rig.source(split)
            keys = self.rig.keys(source)
            self._same(source, self._samples(source, keys), self._samples(self._copy(source), keys), "after pickling")

    def test_loader_processes_under_spawn(self) -> None:
        """data: a process of its own that was spawned gives the same samples"""
        rig = self.rig
        source = rig.source("train")
        keys = rig.keys(source)
        self._copy(source)
        spawn = multiprocessing.get_context("spawn")
        with spawn.Pool(1) as pool:
            found = pool.apply(_read_there, (list(sys.path), pickle.dumps((source, keys)), rig.plugin.point.module))
        if isinstance(found, tuple):
            problem, where = found
            hint = "what a source needs must be in it: a process begins without what this one has set up"
            error = rig.refuse(f"reading in a spawned process failed: {problem}", hint, code_of(source))
            error.where = where or error.where
            raise error
        self._same(source, self._samples(source, keys), pickle.loads(found), "in another process")

    def test_validation_samples_are_held_out(self) -> None:
        """data: samples for validation are not among those for training"""
        rig = self.rig
        train, val = rig.source("train"), rig.source("val")
        shown = [self._pixels(train, key) for key in rig.keys(train, 64)]
        held = [self._pixels(val, key) for key in rig.keys(val, 8)]
        if all(held) and all(pixels in shown for pixels in held):
            hint = "give val_source samples that train_source never gives; with MadeData, use the name of the split"
            raise rig.refuse("its validation samples are training samples", hint, type(self._module()).val_source)

    def test_val_conditions(self) -> None:
        """data: val_conditions gives as many as it is asked for, always the same, without pixels"""
        rig = self.rig
        code = type(self._module()).val_conditions
        for count in (1, 2 * SAMPLES):
            found = rig.data.val_conditions(self.rig.task.name, count)
            if found.pixels is not None or found.latents is not None:
                raise rig.refuse("val_conditions returns pixels", "return replace(batch, pixels=None, keys=())", code)
            scatter()
            if where := first_difference(found, rig.data.val_conditions(self.rig.task.name, count)):
                raise rig.refuse(f"val_conditions({count}) differs from call to call, in {where}", KEYED, code)

    def test_its_data_are_described(self) -> None:
        """data: describe gives lines, captions gives texts"""
        rig, module = self.rig, self._module()
        with rig.calls(rig.path, "describe"):
            lines = list(module.describe())
        if not lines or not all(isinstance(line, str) and line and "\n" not in line for line in lines):
            raise rig.refuse("describe must return lines", "return a list of texts", type(module).describe)
        with rig.calls(rig.path, "captions"):
            captions = [caption for caption, _ in zip(module.captions(), range(100), strict=False)]
        if not all(isinstance(caption, str) for caption in captions):
            raise rig.refuse("captions must give texts", "return the captions themselves", type(module).captions)

    def _module(self) -> Any:
        return self.rig.data.modules[self.rig.task.name]

    def _samples(self, source: Source, keys: Sequence[SampleKey]) -> list[Any]:
        found = []
        for key in keys:
            with self.rig.calls(self.rig.path, "reading", key, code=code_of(source)):
                found.append(source[key])
        return found

    def _pixels(self, source: Source, key: SampleKey) -> bytes:
        """The pixels of a sample, to compare; nothing, if it is no plain one."""
        pixels = getattr(self._samples(source, [key])[0], "pixels", None)
        return pixels.numpy().tobytes() if isinstance(pixels, torch.Tensor) else b""

    def _copy(self, source: Source) -> Source:
        try:
            copy: Source = pickle.loads(pickle.dumps(source))
        except Exception as error:
            hint = "a lambda, a local function, an open file or a lock cannot be; use functools.partial and paths"
            raise self.rig.refuse(f"its source cannot be pickled: {error}", hint, code_of(source)) from error
        return copy

    def _same(self, source: Source, first: Sequence[Any], again: Sequence[Any], when: str) -> None:
        for one, other in zip(first, again, strict=True):
            if (where := first_difference(one, other)) is not None:
                raise self.rig.refuse(f"{where} of a sample differs {when}, for the same key", KEYED, code_of(source))


def scatter() -> None:
    """Other states of the global random generators."""
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(20_261)


def _read_there(path: list[str], source: bytes, module: str) -> Any:
    """In the spawned process: the samples, pickled, or what went wrong, and where."""
    sys.path[:] = path
    try:
        made, keys = pickle.loads(source)
        return pickle.dumps([made[key] for key in keys])
    except Exception as error:
        return describe(error), place(error, module)
