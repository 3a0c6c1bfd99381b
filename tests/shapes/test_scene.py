"""Scenes follow from their key alone, keep what is held out apart, and are unambiguous."""

import math
from collections import Counter
from itertools import combinations as pairs

import pytest

from t2x_plugins.shapes import combinations, is_held_out, sample_scene
from t2x_plugins.shapes.scene import BACKGROUNDS, COLOURS, PLACES, RELATIONS, SHAPES, SIZES, keyed_random


def test_a_scene_follows_from_seed_split_and_id() -> None:
    assert sample_scene(3, 17, two_objects=0.5) == sample_scene(3, 17, two_objects=0.5)
    assert (
        len({sample_scene(seed, id, split) for seed in (0, 1) for id in (0, 1) for split in ("train", "held_out")}) == 8
    )


def test_the_generator_is_the_same_on_every_machine() -> None:
    assert keyed_random("scene", 0).random() == 0.3851404557231294


@pytest.mark.parametrize("two_objects", [0.0, 1.0])
def test_training_never_shows_what_is_held_out(two_objects: float) -> None:
    for id in range(1500):
        assert not is_held_out(sample_scene(0, id, "train", two_objects))
        assert is_held_out(sample_scene(0, id, "held_out", two_objects))


def test_the_same_pair_told_from_the_other_object_is_held_out_too() -> None:
    for id in range(200):
        scene = sample_scene(0, id, two_objects=1.0)
        inverse = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}[
            scene.relation or ""
        ]
        assert not is_held_out(type(scene)(scene.objects[::-1], scene.background, inverse))


def test_splits_share_all_combinations_and_training_has_every_value() -> None:
    train, held_out = set(combinations("train")), set(combinations("held_out"))
    assert not train & held_out
    assert len(train | held_out) == len(SHAPES) * len(COLOURS) * len(SIZES) * len(PLACES)
    assert 0.1 < len(held_out) / 1080 < 0.15
    for position, vocabulary in enumerate((SHAPES, COLOURS, SIZES, PLACES)):
        for split in (train, held_out):
            assert {combination[position] for combination in split} == set(vocabulary)


def test_held_out_combinations_come_round_evenly() -> None:
    held_out = combinations("held_out")
    objects = [sample_scene(5, id, "held_out").objects[0] for id in range(100, 100 + len(held_out))]
    assert {(o.shape, o.colour, o.size, o.place) for o in objects} == set(held_out)


def test_values_are_drawn_evenly() -> None:
    scenes = [sample_scene(0, id) for id in range(4000)]
    for attribute, vocabulary in (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES), ("place", PLACES)):
        counts = Counter(getattr(scene.objects[0], attribute) for scene in scenes)
        assert all(abs(counts[value] / 4000 - 1 / len(vocabulary)) < 0.04 for value in vocabulary)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)


def test_the_share_of_pairs_and_the_backgrounds_are_as_asked() -> None:
    scenes = [sample_scene(0, id, two_objects=0.3, backgrounds=("black",)) for id in range(2000)]
    assert abs(sum(scene.relation is not None for scene in scenes) / 2000 - 0.3) < 0.04
    assert {scene.background for scene in scenes} == {"black"}


def test_objects_lie_inside_the_image_and_sizes_and_places_are_apart() -> None:
    for id in range(1000):
        scene = sample_scene(1, id, two_objects=0.5)
        for thing in scene.objects:
            assert thing.radius < min(thing.x, thing.y, 1 - thing.x, 1 - thing.y)
            assert min(SIZES, key=lambda size: abs(math.log(SIZES[size] / thing.radius))) == thing.size
            if thing.place:
                assert math.dist((thing.x, thing.y), PLACES[thing.place]) < 0.03


def test_relations_are_unambiguous() -> None:
    seen = Counter()
    for id in range(1000):
        scene = sample_scene(2, id, two_objects=1.0)
        first, second = scene.objects
        right, down = RELATIONS[scene.relation or ""]
        x, y = first.x - second.x, first.y - second.y
        along, across = x * right + y * down, abs(x * down) + abs(y * right)
        assert along > first.radius + second.radius + 0.099
        assert across < 0.4 * along
        assert (first.shape, first.colour) != (second.shape, second.colour)
        seen[scene.relation] += 1
    assert min(seen.values()) > 200


def test_colours_are_well_apart() -> None:
    assert min(math.dist(a, b) for a, b in pairs([*COLOURS.values(), *BACKGROUNDS.values()], 2)) > 95
