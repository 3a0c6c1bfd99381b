"""Files that are the same, or look the same; and which of them are on both sides of training and validation."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from t2x_core.data_check.fingerprint import colour_differences
from t2x_core.data_check.kinds import Finding
from t2x_core.data_check.look import Seen
from t2x_core.inventory import Entry

BANDS = 4
"""Parts of a hash that are looked up: of two hashes that differ in at most 2 · BANDS - 1 bits, one part differs in at
most one."""
CLOSE = 6
"""Bits in which hashes of images that look alike differ, at most."""
COLOURS, WORST = 12.0, 64
"""Mean and largest difference of their colours, of 255, at most: a copy of another size or quality differs by less,
and an image of which a part has another colour by more."""
CROWD = 500
"""Hashes with one part in common with which one is compared, at most."""


@dataclass(frozen=True)
class Look:
    """A file that can be read."""

    task: str
    entry: Entry
    seen: Seen
    held_out: bool


def compare(looks: Sequence[Look]) -> Iterator[Finding]:
    """Duplicates and near-duplicates in each task, and leaks over all of them."""
    same = defaultdict(list)
    for look in looks:
        if not look.entry.mask:
            same[look.seen.digest].append(look)
    leaked: set[tuple[str, str]] = set()
    for members in same.values():
        yield from _copies(members, leaked)
    firsts = [members[0] for members in same.values()]
    yield from _alike(firsts, leaked)
    yield from _groups(looks, leaked)


def _copies(members: Sequence[Look], leaked: set[tuple[str, str]]) -> Iterator[Finding]:
    trained = next((look for look in members if not look.held_out), None)
    first_of: dict[str, Look] = {}
    for look in members:
        first = first_of.setdefault(look.task, look)
        if first is not look:
            captions = "" if set(look.entry.captions) <= set(first.entry.captions) else ", with other captions"
            detail = f"is {first.entry.name}{captions}"
            yield Finding("duplicate", look.task, look.entry.name, detail, look.entry, others=(first.entry,))
        if look.held_out and trained is not None:
            leaked.add((look.task, look.entry.name))
            detail = f"is held out, and trained on as {_named(trained, look)}"
            yield Finding("leak", look.task, look.entry.name, detail, look.entry, others=(trained.entry,))


def _named(other: Look, look: Look) -> str:
    return other.entry.name if other.task == look.task else f"{other.entry.name} of {other.task}"


def _alike(looks: Sequence[Look], leaked: set[tuple[str, str]]) -> Iterator[Finding]:
    """Of files with different bytes. Pieces of one group are meant to look alike."""
    seen = [look for look in looks if look.seen.hashes]
    middles = np.asarray([look.seen.hashes[len(look.seen.hashes) // 2] for look in seen], np.uint64)
    representatives: set[int] = set()
    near: dict[int, list[int]] = defaultdict(list)
    for a, b in zip(*close_pairs(middles), strict=True):
        near[int(b)].append(int(a))
    for i, look in enumerate(seen):
        like = [j for j in near[i] if _look_alike(look, seen[j])]
        across = next((j for j in like if seen[j].held_out != look.held_out), None)
        if across is not None:
            held, trained = (look, seen[across]) if look.held_out else (seen[across], look)
            if (held.task, held.entry.name) not in leaked:
                leaked.add((held.task, held.entry.name))
                detail = f"is held out, and looks like {_named(trained, held)}, which is trained on"
                yield Finding("leak", held.task, held.entry.name, detail, held.entry, others=(trained.entry,))
        first = next((j for j in like if j in representatives and seen[j].task == look.task), None)
        if first is None:
            representatives.add(i)
        else:
            detail = f"looks like {seen[first].entry.name}"
            yield Finding("near-duplicate", look.task, look.entry.name, detail, look.entry, others=(seen[first].entry,))


def _look_alike(a: Look, b: Look) -> bool:
    if a.task == b.task and a.entry.group and a.entry.group == b.entry.group:
        return False
    if len(a.seen.hashes) != len(b.seen.hashes):
        return False
    if any((x ^ y).bit_count() > CLOSE for x, y in zip(a.seen.hashes, b.seen.hashes, strict=True)):
        return False
    apart = colour_differences(*(base64.b64decode(one.seen.colours) for one in (a, b)))
    return bool(apart.mean() <= COLOURS and apart.max() <= WORST)


def _groups(looks: Sequence[Look], leaked: set[tuple[str, str]]) -> Iterator[Finding]:
    trained = {look.entry.group: look for look in looks if look.entry.group and not look.held_out}
    for look in looks:
        if look.held_out and look.entry.group in trained and (look.task, look.entry.name) not in leaked:
            other = trained[look.entry.group]
            group = look.entry.group.replace("\n", " ")
            detail = f"is held out, and {_named(other, look)} of the same group, {group}, is trained on"
            yield Finding("leak", look.task, look.entry.name, detail, look.entry, others=(other.entry,))


def close_pairs(hashes: NDArray[np.uint64], distance: int = CLOSE) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (a, b), a < b, of places of hashes that differ in at most `distance` (up to 7) bits, each pair once, by b.

    Each hash is looked up by its four parts of 16 bits, as they are and with each bit of one changed, among the sorted
    ones: the time grows with the number of hashes, and of pairs, not with its square. Where more than `CROWD` hashes
    share a part, each is compared with so many of these only.
    """
    bits = 64 // BANDS
    if not 0 <= distance < 2 * BANDS:
        raise ValueError(f"distance must be 0 to {2 * BANDS - 1}")
    found = [np.zeros((0, 2), np.int64)]
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    for band in range(BANDS):
        parts = ((ordered >> np.uint64(band * bits)) & np.uint64(2**bits - 1)).astype(np.int64)
        rank = np.argsort(parts, kind="stable")
        first_of = np.concatenate([[0], np.cumsum(np.bincount(parts, minlength=2**bits))])
        for flip in (0, *(1 << i for i in range(bits))):
            starts, ends = first_of[parts ^ flip], first_of[(parts ^ flip) + 1]
            if not flip:  # those behind it
                own = np.empty_like(starts)
                own[rank] = np.arange(len(rank))
                starts = own + 1
            found.append(_compare_ranges(ordered, rank, starts, np.minimum(ends, starts + CROWD), distance))
    pairs = np.sort(order[np.concatenate(found)], 1)
    each = np.unique(pairs[:, 1] * max(1, len(hashes)) + pairs[:, 0])
    return each % max(1, len(hashes)), each // max(1, len(hashes))


def _compare_ranges(
    hashes: NDArray[np.uint64], rank: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64], most: int
) -> NDArray[np.int64]:
    """Pairs (n, 2) of each hash with those at rank[start:end] that are close to it."""
    found = [np.zeros((0, 2), np.int64)]
    counts = np.maximum(0, ends - starts)
    step = max(1, 2**22 // max(1, int(counts.max(initial=0))))
    for first in range(0, len(hashes), step):
        count = counts[first : first + step]
        if not (total := int(count.sum())):
            continue
        own = np.repeat(np.arange(first, first + len(count)), count)
        offset = np.arange(total) - np.repeat(np.cumsum(count) - count, count)
        other = rank[np.repeat(starts[first : first + step], count) + offset]
        close = (np.bitwise_count(hashes[own] ^ hashes[other]) <= most) & (own != other)
        found.append(np.stack([own[close], other[close]], 1))
    return np.concatenate(found)
