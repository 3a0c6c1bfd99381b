"""Aspect-ratio buckets."""

from __future__ import annotations

import numpy as np
import pytest

from t2x_core.data.buckets import bucket_shapes, fill_buckets, nearest_bucket


@pytest.mark.parametrize(("size", "step", "multiple"), [(64, 8, 4), (256, 32, 8), (512, 64, 16), (100, 12, 4)])
def test_buckets_have_about_the_same_area_and_divide_into_patches(size, step, multiple):
    shapes = bucket_shapes(size, 2.0, step, multiple)
    assert (size, size) in shapes
    assert {(w, h) for h, w in shapes} == set(shapes)
    assert len(shapes) == len(set(shapes)) >= 5
    for h, w in shapes:
        assert h % multiple == w % multiple == 0
        assert max(h, w) <= 2 * min(h, w)
        assert abs(h * w / size**2 - 1) < 0.1
    assert [h / w for h, w in shapes] == sorted(h / w for h, w in shapes)


def test_a_ratio_of_one_gives_the_square_alone():
    assert bucket_shapes(64, 1.0, 8, 4) == [(64, 64)]


def test_a_image_goes_to_the_bucket_of_the_nearest_ratio():
    shapes = bucket_shapes(64, 2.0, 8, 4)
    sizes = np.asarray([(100, 100), (1000, 10), (10, 1000), *((5 * h, 5 * w) for h, w in shapes)])
    found = [shapes[i] for i in nearest_bucket(sizes, shapes)]
    assert found == [(64, 64), shapes[-1], shapes[0], *shapes]


def test_images_of_small_buckets_go_to_the_nearest_that_is_left():
    shapes = [(32, 128), (48, 80), (64, 64), (128, 32)]
    sizes = np.asarray([shapes[0]] * 2 + [shapes[1]] * 3 + [shapes[2]] * 9 + [shapes[3]] * 4)
    kept, bucket, moves = fill_buckets(sizes, shapes, least=4)
    assert kept == [(48, 80), (64, 64), (128, 32)]
    assert np.bincount(bucket).tolist() == [5, 9, 4]
    assert [(move.shape, move.count, move.to) for move in moves] == [((32, 128), 2, [(48, 80)])]
    assert fill_buckets(sizes, shapes, least=1)[0] == shapes
    assert len(fill_buckets(sizes, shapes, least=18)[0]) == 1
    assert len(fill_buckets(sizes, shapes, least=19)[0]) == 1  # too few in all: the caller says so
