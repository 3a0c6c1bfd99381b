"""What an expert would choose for this data on this machine (docs/new.md says why)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from t2x_core.starting.machine import Machine
from t2x_core.starting.summary import DataSummary, Setting, median_side
from t2x_core.training.plan import Plan

EPOCHS = 100
"""Passes over the data, within `STEPS`."""
STEPS = {"cpu": (2_000, 20_000), "gpu": (5_000, 200_000)}
HOURS = {"cpu": 8, "gpu": 72}
"""Of the run, at most, by the plan's estimate."""
LEAST_STEPS = 500
NETWORKS = ("S", "B", "L", "XL")
"""Presets, by size."""
RATES = {"": 1e-3, "S": 5e-4, "B": 3e-4, "L": 2e-4, "XL": 1e-4}
"""Learning rates at a batch of 64; "" is the small network for a CPU, at a batch of 16."""
ROOM = 0.9
"""Share of the memory that may be planned with."""
BATCHES_OF_DATA = 3
"""A batch is at most a third of the data."""
LEAST_SHARE = 8
"""Samples of a batch that a GPU of several has, at least."""
HELD_OUT = 0.05
"""The share of the data that is not trained on, by default."""


@dataclass(frozen=True)
class Choice:
    """What is chosen, before it is written."""

    summary: DataSummary
    machine: Machine
    latents: bool
    size: int
    network: str
    """A preset; "": the small network for a CPU."""
    batch: int
    steps: int
    accumulation: int = 1

    @property
    def base(self) -> str:
        return self.summary.recipes[f"latents-{self.size}" if self.latents else "pixels"]

    @property
    def devices(self) -> int:
        """As many of the GPUs as have a share of the batch that is worth it."""
        most = min(self.machine.gpus, self.batch // LEAST_SHARE)
        return 2 ** int(math.log2(max(1, most)))

    @property
    def patch(self) -> int:
        """Pixels: so that an image is 8×8 tokens on a CPU and 16×16 on a GPU, a frame half as many a side."""
        cells = (16 if self.machine.gpu else 8) // (1 if self.summary.frames == 1 else 2)
        return max(1, self.size // cells)


def first_choice(summary: DataSummary, machine: Machine) -> Choice:
    """By rules of thumb; `fit_to` makes it fit."""
    kind = "gpu" if machine.gpu else "cpu"
    side, several = median_side(summary.sizes), summary.frames > 1
    coded = sorted(int(name.partition("-")[2]) for name in summary.recipes if name.startswith("latents-"))
    coded = [size for size in coded if size <= (512 if machine.memory >= 40 else 256)]
    latents = bool(machine.gpu and machine.pretrained and machine.memory >= 16 and coded and side >= 0.75 * coded[0])
    if latents:
        sizes = coded
    elif machine.gpu:
        sizes = [32, 64] if several else [32, 64, 128]
    else:
        sizes = [32] if several else [32, 64]
    size = max((one for one in sizes if one <= 1.2 * side), default=sizes[0])
    most = (8 if several else 16) if kind == "cpu" else (32 if several else 64)
    train = summary.count - max(1, round(summary.count * HELD_OUT))
    batch = 2 ** int(math.log2(min(most, max(1, train // BATCHES_OF_DATA))))
    network = "" if kind == "cpu" else _network(summary.count, machine.memory, latents)
    low, high = STEPS[kind]
    return Choice(summary, machine, latents, size, network, batch, rounded(min(max(EPOCHS * train / batch, low), high)))


def _network(count: int, memory: float, latents: bool) -> str:
    """Larger for more data and more memory."""
    if count < 5_000 or memory < 16:
        return "S"
    if count < 100_000 or memory < 40:
        return "B"
    return "XL" if latents else "L"


def rounded(number: float) -> int:
    """With two digits: 12,345 is 12,000."""
    digits = 10 ** max(0, int(math.log10(number)) - 1)
    return max(1, round(number / digits) * digits)


def fit_to(choice: Choice, plan_of: Callable[[Choice], Plan]) -> tuple[Choice, Plan]:
    """A choice whose plan fits in memory and in time: by smaller micro-batches, then a smaller network, then fewer
    steps."""
    while True:
        plan = plan_of(choice)
        if plan.memory is None or plan.memory.total <= ROOM * choice.machine.memory * 2**30:
            break
        if choice.batch // choice.devices > choice.accumulation:
            choice = replace(choice, accumulation=2 * choice.accumulation)
        elif choice.network not in ("", NETWORKS[0]):
            smaller = NETWORKS[NETWORKS.index(choice.network) - 1]
            choice = replace(choice, network=smaller, accumulation=1)
        else:
            break  # a dry run says what it lacks
    if not plan.devices:
        return choice, plan
    most = 3600 * HOURS["gpu" if choice.machine.gpu else "cpu"] / plan.devices[0].step_seconds
    if choice.steps > most:
        choice = replace(choice, steps=rounded(max(LEAST_STEPS, most)))
        plan = plan_of(choice)
    return choice, plan


def max_aspect_ratio(summary: DataSummary) -> float:
    """Of the buckets: that of 95 % of the images, in halves, at most 3; 1 if all are nearly square."""
    ratios = np.abs(np.log(summary.sizes[:, 0] / summary.sizes[:, 1]))
    longest = math.exp(float(np.quantile(ratios, 0.95)))
    return 1.0 if longest < 1.15 else min(3.0, max(1.5, math.ceil(2 * longest - 0.1) / 2))


def settings(choice: Choice) -> Iterator[Setting]:
    """All that the recipe says besides where the data is."""
    summary, machine, cpu = choice.summary, choice.machine, not choice.machine.gpu
    block = f"tasks.{summary.task}.data.{summary.block}"
    side = median_side(summary.sizes)
    near = f"pixels; the median {summary.noun} is as large as {side} square"
    limit = "a larger one costs more than this machine can do" if not choice.latents else "a larger one costs more"
    yield Setting(f"{block}.size", choice.size, f"{near}; {limit}" if choice.size < 0.8 * side else near)
    if summary.aspects:
        ratio = max_aspect_ratio(summary)
        why = f"buckets by aspect ratio, up to that of 95 % of the {summary.noun}s"
        yield Setting(f"{block}.max_aspect_ratio", ratio, why if ratio > 1 else f"the {summary.noun}s are square")
        yield Setting(f"{block}.flip", 0.0, '0.5 doubles the data, if "left" and "right" mean nothing in the captions')
    for own in summary.settings:
        yield replace(own, key=f"{block}.{own.key}")
    yield from _network_settings(choice)
    batch, steps = choice.batch, choice.steps
    rate = RATES[choice.network] * math.sqrt(batch / (64 if choice.network else 16))
    yield Setting("optimizer.lr", float(f"{rate:.1g}"), "for this network, by the square root of the batch")
    yield Setting("optimizer.warmup_steps", max(1, min(1000, steps // 20)))
    yield Setting("ema.decay", round(min(0.9998, 1 - 10 / steps), 4), "averages over about a tenth of the run")
    passes = batch * steps / max(1, summary.count - round(summary.count * HELD_OUT))
    yield Setting("trainer.max_steps", steps, f"each {summary.noun} about {passes:,.0f} times")
    yield Setting("trainer.global_batch", batch, f"at most a third of the {summary.noun}s")
    if choice.latents or choice.accumulation > 1:
        yield Setting("trainer.accumulation", choice.accumulation, "micro-batches that fit in memory")
    if choice.devices > 1:
        yield Setting("trainer.devices", choice.devices)
    most = min(8, machine.cores) if not cpu else 1 if machine.cores <= 4 else 2
    yield Setting("trainer.workers", most, "processes that read")
    if cpu:
        yield Setting("trainer.accelerator", "cpu")
    yield Setting("trainer.precision", "32-true" if cpu else "auto", "" if cpu else "bf16-mixed where there is bf16")
    for name, share in (("sample_every", 10), ("validate_every", 20), ("checkpoint_every", 20)):
        yield Setting(f"logging.{name}", max(1, min(5000, steps // share)))
    if choice.latents:
        yield Setting("cache.folder", "cache", "latents and texts, encoded once by `t2x cache`; relative to this file")
        yield Setting("cache.dtype", "bfloat16")
        if summary.variants:
            yield Setting("cache.variants", 4, "versions of each that are kept, as each begins anywhere")


def _network_settings(choice: Choice) -> Iterator[Setting]:
    words = choice.summary.words
    if choice.latents:
        yield Setting("backbone.preset", choice.network, "S, B, L, XL: larger for more data and memory")
        yield Setting("backbone.attention", "fused", "`proxy` is the paper's")
        yield Setting("backbone.window", "auto")
        if 2 * words > 120:
            yield Setting("text_encoders.t5.max_tokens", min(512, 2 * words), f"the longest caption has {words} words")
        return
    if choice.network:
        yield Setting("backbone.preset", choice.network, "S, B, L, XL: larger for more data and memory")
    else:
        small = {"preset": None, "width": 192, "depth": 6, "heads": 6}
        for i, (key, value) in enumerate(small.items()):
            yield Setting(f"backbone.{key}", value, "" if i else "a small network, for a CPU")
        yield Setting("text_encoders.bytes.dim", 128)
        yield Setting("text_encoders.bytes.depth", 1)
    yield Setting("backbone.patch_size", choice.patch, f"pixels; {choice.size // choice.patch}² tokens a frame")
    longest = f"the longest caption has {words}"
    yield Setting("text_encoders.bytes.max_words", max(16, min(256, -(-words // 8) * 8)), longest)
