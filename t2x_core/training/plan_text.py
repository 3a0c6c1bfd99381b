"""A plan as people read it: lines, and a table of the buckets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from math import prod
from typing import Any

from rich import box
from rich.table import Table

from t2x_core.training.estimate import times
from t2x_core.training.flops import in_flop
from t2x_core.training.plan import BucketPlan, DevicePlan, Plan
from t2x_core.wording import counted, duration, file_size, rounded


def cost_lines(plan: Plan) -> list[str]:
    """Lines on frozen parts, arithmetic and time."""
    compute = f"not known: {plan.unknown}"
    if plan.flops is not None:
        compute = f"{plan.flops} a step, {in_flop(plan.flops.total * plan.steps)} for the run"
    return [
        *(f"frozen     {part}" for part in plan.frozen),
        f"compute    {compute}",
        *(f"{'time' if not i else '':11}{_time(plan, device)}" for i, device in enumerate(plan.devices)),
    ]


def memory_line(plan: Plan) -> str:
    """The line on memory."""
    return f"memory     {plan.memory or f'not known: {plan.unknown}'}"


def cache_line(plan: Plan) -> Iterator[str]:
    """The line on the cache, if there is one."""
    if (cache := plan.cache) is None:
        return
    texts = "texts that are made on the fly" if cache.texts is None else counted(cache.texts, "text")
    unknown = ", without the texts" if cache.texts is None else ""
    yield f"cache      {counted(cache.latents, 'latent')} and {texts}: {file_size(cache.bytes)}{unknown}"


def _time(plan: Plan, device: DevicePlan) -> str:
    """ "about 5.27 s a step, 12 d 4 h for the run on 8 × H100 at 40% (assumed) of 989 TFLOP/s …"."""
    step = device.step_seconds
    one = f"{step * 1000:.3g} ms" if step < 1 else f"{step:.3g} s"
    where = f"{plan.ranks} × {device.name}" if plan.ranks > 1 else device.name
    how = f"at {device.share:.0%} ({device.share_from}) of {in_flop(device.peak_flops)}/s ({device.peak_from})"
    text = f"about {one} a step, {duration(device.run_seconds)} for the run on {where} {how}"
    text += ", with a filled cache" if device.cached else ""
    if device.energy_kwh is not None:
        boards = "boards" if plan.ranks > 1 else "board"
        text += f", {device.energy_kwh:.3g} kWh at {device.watts:g} W ({boards} alone)"
    if device.fits is False:
        text += f"; it does not fit in {device.memory_gib:.0f} GiB"
    return text


def tokens_lines(plan: Plan) -> Iterator[str]:
    """A line for each task: the tokens of its largest samples."""
    for name in plan.tasks:
        own = [bucket for bucket in plan.buckets if bucket.task == name]
        one = max(own, key=lambda bucket: prod(shape_of(bucket)))
        prefix = f"{name}: " if len(plan.tasks) > 1 else ""
        yield f"tokens     {prefix}{times(shape_of(one))} pixels → {one.tokens}; {one.batch} samples a step"


def shape_of(bucket: BucketPlan) -> tuple[int, int, int]:
    """(F, height, width), in pixels."""
    return bucket.frames, bucket.height, bucket.width


def bucket_table(plan: Plan) -> Table:
    """A row for each bucket."""
    several = len(plan.tasks) > 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in [*(["task"] if several else []), "shape"]:
        table.add_column(title, overflow="fold")
    for title in ("samples", "batch", "steps", "repeats", "tokens", "windows", "padding", "a step"):
        table.add_column(title, justify="right", overflow="fold")
    for bucket in plan.buckets:
        tokens = bucket.tokens
        windowed = tokens.window is not None
        table.add_row(
            *([bucket.task] if several else []),
            times(shape_of(bucket)[bucket.frames == 1 :]),
            "?" if bucket.samples is None else f"{bucket.samples:,}",
            f"{bucket.batch:,}",
            f"{bucket.steps:,.0f}",
            "?" if bucket.repeats is None else rounded(bucket.repeats),
            f"{tokens.count:,}",
            f"{tokens.windows} of {times(tokens.window)}" if tokens.window else "-",
            f"{tokens.padding:.0%}, {tokens.shifted_padding:.0%}" if windowed else "-",
            "?" if bucket.flops is None else in_flop(bucket.flops.total),
        )
    return table


def plan_json(plan: Plan, notes: list[str]) -> dict[str, Any]:
    """The plan as plain values. Memory is in bytes, of one rank; operations are of all ranks together."""
    plain = asdict(plan)
    for found, bucket in zip(plain["buckets"], plan.buckets, strict=True):
        found["tokens"]["count"] = bucket.tokens.count
        found["flops"] = None if bucket.flops is None else {**found["flops"], "total": bucket.flops.total}
    flops = plan.flops
    plain["flops"] = None
    if flops is not None:
        step = {**asdict(flops), "total": flops.total}
        plain["flops"] = {"step": step, "rank": flops.total / plan.ranks, "run": flops.total * plan.steps}
    if plan.memory is not None:
        plain["memory"]["total"] = plan.memory.total
    if plan.cache is not None:
        plain["cache"]["bytes"] = plan.cache.bytes
    return {**plain, "notes": notes}
