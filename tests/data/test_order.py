from collections import Counter

import numpy as np
import pytest

from t2x_core import keyed
from t2x_core.data.order import MIXED, BucketSchedule, MicroBatches, Permutation, SampleOrder, TaskSchedule, in_blocks
from t2x_core.types import Bucket


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 1000, 4097])
def test_a_permutation_has_every_number_once(n):
    assert sorted(Permutation(n, 0, "x")(np.arange(n)).tolist()) == list(range(n))


def test_permutations_differ_by_seed_and_word_and_look_random():
    first, second = (Permutation(1000, seed, "x")(np.arange(1000)) for seed in (0, 1))
    assert (first == second).mean() < 0.01
    assert abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 0.1


def test_a_permutation_of_a_huge_set_needs_no_memory():
    ids = Permutation(10**12, 3, "x")(np.arange(5))
    assert len(set(ids.tolist())) == 5
    assert all(0 <= i < 10**12 for i in ids)


def test_turns_follow_the_weights_and_count_the_earlier_ones():
    turns = TaskSchedule([1, 2, 5], 0, "x")
    choices = turns.choices(0, 8000).tolist()
    assert all(abs(Counter(choices)[i] - 1000 * w) <= 3 for i, w in enumerate([1, 2, 5]))
    for turn in (0, 1, 17, 500, 20, 7999):  # forward, and back again
        assert turns(turn) == (choices[turn], choices[:turn].count(choices[turn]))


def test_turns_are_those_of_the_sequence_in_plain_integers():
    """Weyl: multiples of the golden ratio from an offset of the seed, modulo 1, held against the shares of the weights.
    Another sequence would give every resumed run of several tasks other steps."""
    weights, offset = [1, 2, 5], keyed.digest(3, "task")
    shares = [sum(weights[: i + 1]) / 8 for i in range(2)]
    expected = [sum((turn * keyed.GOLDEN + offset) % 2**64 / 2**64 >= share for share in shares) for turn in range(500)]
    assert TaskSchedule(weights, 3, "task").choices(0, 500).tolist() == expected


def test_an_epoch_of_a_bucket_shows_each_sample_once_and_leaves_none_over():
    order = SampleOrder(0, {"a": (1.0, [Bucket(1, 8, 8, 10)])}, lambda *_: 4)
    ids = [key.id for step in range(5) for key in order.keys(step)]
    assert sorted(ids[:10]) == sorted(ids[10:]) == list(range(10))
    assert ids[:10] != ids[10:]


def test_an_epoch_of_several_buckets_shows_each_sample_once_if_the_batch_divides_them():
    counts = [120, 12, 340, 4]
    order = SampleOrder(3, {"a": (1.0, [Bucket(1, 8, 8 + i, n) for i, n in enumerate(counts)])}, lambda *_: 4)
    steps = sum(counts) // 4
    everything = sorted((bucket, id) for bucket, n in enumerate(counts) for id in range(n))
    sequences = set()
    for epoch in range(5):
        keys = [order.keys(step) for step in range(epoch * steps, (epoch + 1) * steps)]
        assert sorted((key.bucket, key.id) for batch in keys for key in batch) == everything
        sequences.add(tuple(batch[0].bucket for batch in keys))
    assert len(sequences) == 5


@pytest.mark.parametrize(("counts", "batch"), [([7, 100, 33, 1], 16), ([3, 2, 1], 64), ([5, 8, 0, 13], 13)])
def test_no_bucket_is_favoured_when_the_batch_does_not_divide_them(counts, batch):
    turns = BucketSchedule(counts, [batch] * len(counts), 0, "x")
    seen: Counter[int] = Counter()
    for turn in range(5_000):
        bucket, earlier = turns(turn)
        assert earlier == seen[bucket]
        seen[bucket] += 1
    for bucket, count in enumerate(counts):
        assert abs(seen[bucket] - 5_000 * count / sum(counts)) < 8
    assert turns(11) == BucketSchedule(counts, [batch] * len(counts), 0, "x")(11)  # backward
    assert turns(1_000_000) == BucketSchedule(counts, [batch] * len(counts), 0, "x")(1_000_000)


def test_a_step_has_one_task_and_one_bucket_and_numbered_slots():
    order = SampleOrder(
        5, {"a": (1.0, [Bucket(1, 8, 8, 10), Bucket(1, 4, 16, 30)]), "b": (3.0, [Bucket(2, 8, 8, 7)])}, lambda *_: 6
    )
    steps = [order.keys(step) for step in range(400)]
    for step, keys in enumerate(steps):
        assert len({(key.task, key.bucket) for key in keys}) == 1
        assert [key.slot for key in keys] == list(range(6))
        assert {key.step for key in keys} == {step}
    shares = Counter((keys[0].task, keys[0].bucket) for keys in steps)
    assert abs(shares["b", 0] - 300) <= 3
    assert abs(shares["a", 1] - 75) <= 4


def test_the_order_at_a_late_step_does_not_depend_on_the_way_there():
    tasks = {"a": (1.0, [Bucket(1, 8, 8, 100), Bucket(1, 8, 4, 50)]), "b": (2.0, [Bucket(1, 8, 8, 9)])}
    walked = SampleOrder(1, tasks, lambda *_: 8)
    for step in range(1000):
        walked.keys(step)
    assert walked.keys(1000) == SampleOrder(1, tasks, lambda *_: 8).keys(1000)


@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 1), (2, 1), (4, 1), (1, 4), (2, 2)])
def test_ranks_and_micro_batches_share_out_the_same_global_batch(ranks, accumulation):
    order = SampleOrder(0, {"a": (1.0, [Bucket(1, 8, 8, 100)])}, lambda *_: 8)
    loaders = [
        list(MicroBatches(order, steps=5, accumulation=accumulation, rank=r, ranks=ranks, first_step=lambda: 2))
        for r in range(ranks)
    ]
    for i, step in enumerate(range(2, 5)):
        micro = range(i * accumulation, (i + 1) * accumulation)
        shared = [key for loader in loaders for m in micro for key in loader[m]]
        assert sorted(shared) == sorted(order.keys(step))


def test_the_order_is_the_same_as_ever():
    """Golden: a change here makes every resumed run another run."""
    order = SampleOrder(0, {"a": (1.0, [Bucket(1, 8, 8, 100), Bucket(1, 8, 4, 200)])}, lambda *_: 4)
    assert [[(k.bucket, k.id) for k in order.keys(step)] for step in (0, 1, 123456)] == GOLDEN


GOLDEN = [
    [(1, 151), (1, 194), (1, 150), (1, 47)],
    [(1, 104), (1, 19), (1, 61), (1, 98)],
    [(1, 14), (1, 157), (1, 195), (1, 159)],
]


def test_buckets_with_batches_of_their_own():
    """Each epoch shows every sample once, whatever the batches: buckets have turns in proportion to samples / batch."""
    buckets = [Bucket(1, 8, 8, 120), Bucket(8, 8, 8, 60)]
    sizes = {1: 12, 8: 3}
    order = SampleOrder(0, {"a": (1.0, buckets)}, lambda task, bucket: sizes[bucket.frames])
    for epoch in range(3):
        steps = [order.keys(step) for step in range(30 * epoch, 30 * (epoch + 1))]  # 120 / 12 + 60 / 3
        assert {len(keys) for keys in steps} == {3, 12}
        seen = Counter((key.bucket, key.id) for keys in steps for key in keys)
        assert set(seen.values()) == {1}
        assert len(seen) == 180
    assert order.keys(1_000_003) == SampleOrder(0, {"a": (1.0, buckets)}, order_sizes(sizes)).keys(1_000_003)
    micro = MicroBatches(order, steps=40, accumulation=3, rank=0, ranks=1, first_step=lambda: 30)
    assert {len(keys) for keys in micro} == {1, 4}


def order_sizes(sizes):
    return lambda task, bucket: sizes[bucket.frames]


@pytest.mark.parametrize("block", [1, 3, 10, 64, 1000])
@pytest.mark.parametrize("count", [1, 16, 63, 160, 161, 1000])
def test_in_blocks_each_sample_comes_once_an_epoch_and_few_blocks_are_open_at_a_time(count, block):
    ids = in_blocks(np.arange(count), count, block, 3, "x", 7)
    assert sorted(ids.tolist()) == list(range(count))
    chance = np.random.default_rng(0).permutation(count)  # any place by itself, in any order
    assert in_blocks(chance, count, block, 3, "x", 7).tolist() == ids[chance].tolist()
    first, last, latest = {}, {}, {}
    for place, id in enumerate(ids.tolist()):
        own = id // block
        assert latest.get(own, -1) < id  # forwards
        latest[own] = id
        first.setdefault(own, place)
        last[own] = place
    for place in range(count):
        assert sum(first[own] <= place <= last[own] for own in first) <= MIXED
    if block == 10 and count == 1000:
        assert ids.tolist() != in_blocks(np.arange(count), count, block, 3, "x", 8).tolist()
        assert np.corrcoef(ids[:-1], ids[1:])[0, 1] < 0.5


def test_the_order_in_blocks_is_exact_on_any_number_of_ranks():
    buckets = [Bucket(1, 8, 8, 60, 7), Bucket(1, 8, 16, 36, 7)]
    order = SampleOrder(5, {"t": (1.0, buckets)}, lambda *_: 12)
    steps = [[(key.bucket, key.id) for key in order.keys(step)] for step in range(16)]  # two epochs
    counts = Counter(key for step in steps for key in step)
    assert set(counts.values()) == {2}
    assert len(counts) == 96
    for ranks in (2, 3, 4):
        shares = [
            list(MicroBatches(order, steps=16, accumulation=1, rank=rank, ranks=ranks, first_step=lambda: 0))
            for rank in range(ranks)
        ]
        joined = [[(key.bucket, key.id) for part in step for key in part] for step in zip(*shares, strict=True)]
        assert joined == steps
