"""Settings that defeat each other, and data that is not used: said before training, in --dry-run and in the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from t2x_core.data.mixture import MixedData
from t2x_core.interfaces import Source, TextEncoder
from t2x_core.recipe import Recipe
from t2x_core.wording import counted, rounded

MOST_CAPTIONS = 100_000
"""Captions of which the length is looked at."""


def remarks(
    recipe: Recipe, encoders: Mapping[str, TextEncoder], data: MixedData, notes_before: Iterable[str] = ()
) -> list[str]:
    """Lines on epochs, on a warm-up that is too long, on shapes that no step takes, and on captions that are cut.

    `data` is checked (`MixedData.check`). `notes_before`: further notes, which come first.
    """
    sources = data.train_sources()
    seen = epochs(recipe.trainer.max_steps, data, sources)
    several = len(sources) > 1
    lines = [
        f"{f'{name}: ' if several else ''}{rounded(number)} of {counted(len(sources[name]), 'sample')}"
        for name, number in seen.items()
    ]
    notes = [
        *notes_before,
        *warm_up(recipe.optimizer.warmup_steps, recipe.trainer.max_steps),
        *unseen_shapes(recipe.trainer.max_steps, data, sources),
    ]
    for name, encoder in encoders.items():
        captions = (caption for module in data.modules.values() for caption in module.captions())
        notes += cut_captions(encoder, captions, f"text_encoders.{name}")
    return [f"epochs     {line}" for line in lines] + [f"note       {note}" for note in notes]


def epochs(max_steps: int, data: MixedData, sources: Mapping[str, Source]) -> dict[str, float]:
    """How often the run sees each sample of each task: samples taken over samples there are."""
    total = sum(data.weights.values())
    turns = {
        name: sum(bucket.count / data.batch_size(name, bucket) for bucket in source.buckets())
        for name, source in sources.items()
    }
    return {name: max_steps * data.weights[name] / total / turns[name] for name in sources}


def warm_up(warmup_steps: int, max_steps: int) -> Iterable[str]:
    """A line if the warm-up takes more than half of the run."""
    if 2 * warmup_steps <= max_steps or warmup_steps <= 1:
        return
    steps = f"optimizer.warmup_steps, {warmup_steps}, of trainer.max_steps, {max_steps}"
    if warmup_steps >= max_steps:
        what = f"the warm-up takes the whole run, and the learning rate ends at {max_steps / warmup_steps:.0%} of lr"
    else:
        what = f"the warm-up takes {warmup_steps / max_steps:.0%} of the run"
    yield f"{what} ({steps}): set warmup_steps to about {max(1, max_steps // 20)}"


def unseen_shapes(max_steps: int, data: MixedData, sources: Mapping[str, Source]) -> Iterable[str]:
    """A line for each task of whose commonest shape no step takes a batch."""
    order = data.order(sources)
    for index, (name, source) in enumerate(sources.items()):
        buckets = source.buckets()
        commonest = max(range(len(buckets)), key=lambda i: buckets[i].count)
        turns = (turn for task, turn in map(order.turns, range(max_steps)) if task == index)
        if not any(order.streams[index].turns(turn)[0] == commonest for turn in turns):
            b = buckets[commonest]
            yield (
                f"no step takes a batch of the commonest shape of {name}, {b.frames}×{b.height}×{b.width} "
                f"({counted(b.count, 'sample')}): raise trainer.max_steps"
            )


def cut_captions(encoder: TextEncoder, captions: Iterable[str], block: str) -> Iterable[str]:
    """A line if the encoder (at `block` of the recipe) does not read some captions, of the first ones, to their end."""
    limit = encoder.longest
    if limit is None:
        return
    lengths = [encoder.length(caption) for caption in islice(captions, MOST_CAPTIONS)]
    longer = [length for length in lengths if length > limit]
    if longer:
        cut = f"{counted(len(longer), 'caption', 'are')} cut (of {len(lengths):,})"
        yield (
            f"{cut}: {block}.{encoder.longest_setting} is {limit}, and the longest has {max(longer)} words; "
            f"set it to {max(longer)}, or shorten the captions"
        )
