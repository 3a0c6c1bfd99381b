"""The checker of solids is right on true views, and finds out what is wrong in a single one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from t2x_plugins.shapes.solids import canonical, check, full_caption_spec, render, sample_scene, score
from t2x_plugins.shapes.solids.scene import INVERSE, PLACES, SOLIDS
from t2x_plugins.text_to_multiview.cameras import Cameras

FOV = 40.0


def turntable(i, views=6):
    return Cameras.turntable(views, 37.0 * i, 20 + i % 16, 3.3, FOV).poses.numpy()


def blur(views):
    values = views.astype(np.float64)
    for axis in (1, 2):
        values = (np.roll(values, 1, axis) + 2 * values + np.roll(values, -1, axis)) / 4
    return values


def add_noise(views, level):
    return np.clip(np.round(views + np.random.default_rng(level).normal(0, 8, views.shape)), 0, 255).astype(np.uint8)


def right_of(pairs, size=24, views=6, change=lambda shown, i: shown, count=50):
    """Share of scenes that are right, by attribute."""
    found = []
    for i in range(count):
        scene = sample_scene(1, i, "train", 1.0 if pairs else 0.0)
        poses = turntable(i, views)
        found.append(check(change(render(scene, poses, FOV, size), i), scene, poses, FOV))
    return {name: sum(right[name] for right in found) / len(found) for name in found[0]}


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(("size", "views"), [(24, 6), (32, 4)])
def test_right_on_true_views(pairs, size, views):
    assert right_of(pairs, size, views, count=100)["all"] >= 0.99


@pytest.mark.parametrize("pairs", [False, True])
def test_right_on_soft_and_noisy_views(pairs):
    assert right_of(pairs, change=lambda shown, i: add_noise(shown, i))["all"] >= 0.98
    assert right_of(pairs, 32, change=lambda shown, i: add_noise(blur(shown), i))["all"] >= 0.95


def test_right_on_slightly_wrong_colours():
    assert right_of(False, change=lambda shown, i: (shown * 0.85 + 10).astype(np.uint8))["all"] >= 0.98


@pytest.mark.parametrize("pairs", [False, True])
def test_one_view_of_another_scene_is_found_out(pairs):
    def exchange(shown, i):
        other = render(sample_scene(9, i, "train", 1.0 if pairs else 0.0), turntable(i), FOV, 24)
        shown[i % 6] = other[i % 6]
        return shown

    right = right_of(pairs, change=exchange)
    assert right["all"] <= 0.08
    assert right["views"] <= 0.15


def test_one_view_of_another_colour_is_found_out():
    for i in range(40):
        scene = sample_scene(1, i)
        (thing,) = scene.solids
        other = replace(scene, solids=(replace(thing, colour="blue" if thing.colour != "blue" else "red"),))
        views = render(scene, turntable(i), FOV, 24)
        views[2] = render(other, turntable(i), FOV, 24)[2]
        right = check(views, scene, turntable(i), FOV)
        assert not right["colour"]
        assert not right["views"]
        assert right["solid"]


def test_another_solid_in_one_view_is_found_out():
    wrong = 0
    for i in range(40):
        scene = sample_scene(1, i)
        (thing,) = scene.solids
        kind = [kind for kind in SOLIDS if kind != thing.kind][i % 3]
        views = render(scene, turntable(i), FOV, 24)
        views[2] = render(replace(scene, solids=(replace(thing, kind=kind),)), turntable(i), FOV, 24)[2]
        wrong += not check(views, scene, turntable(i), FOV)["all"]
    assert wrong >= 38


@pytest.mark.parametrize("pairs", [False, True])
def test_views_in_another_order_are_found_out(pairs):
    """What stands in the middle, or is a stack, looks nearly the same from all sides."""
    tried = wrong = 0
    for i in range(80):
        scene = sample_scene(1, i, "train", 1.0 if pairs else 0.0)
        if scene.solids[0].place == "middle" or scene.relation in ("on top of", "under"):
            continue
        views = render(scene, turntable(i), FOV, 24)
        tried += 1
        wrong += not check(views[[0, 3, 1, 5, 2, 4]], scene, turntable(i), FOV)["all"]
    assert tried > 30
    assert wrong >= 0.97 * tried


def test_a_turned_scene_stands_somewhere_else():
    """All views one camera further are views of one scene, but its place is another one."""
    found = []
    for i in range(30):
        scene = sample_scene(1, i)
        if scene.solids[0].place != "middle":
            found.append(check(np.roll(render(scene, turntable(i), FOV, 24), 2, 0), scene, turntable(i), FOV))
    assert not any(right["place"] for right in found)
    assert sum(right["views"] for right in found) > 0.8 * len(found)  # but the light would have turned along


def test_mirrored_relations_and_other_words_are_wrong():
    for i in range(60):
        scene = sample_scene(3, i, "train", 1.0)
        told = full_caption_spec(scene)
        views = render(scene, turntable(i), FOV, 24)
        mirrored = check(views, replace(told, relation=INVERSE[told.relation]), turntable(i), FOV)
        assert not mirrored["relation"]
        assert mirrored["views"]
        other = replace(told.solids[0], kind=SOLIDS[SOLIDS.index(told.solids[0].kind) - 1])
        assert not check(views, replace(told, solids=(other, told.solids[1])), turntable(i), FOV)["solid"]


def test_what_is_not_said_is_not_judged():
    scene = sample_scene(3, 4, "train", 1.0)
    told = full_caption_spec(scene)
    bare = replace(told, solids=tuple(replace(words, colour=None) for words in told.solids))
    assert check(render(scene, turntable(0), FOV, 24), bare, turntable(0), FOV)["all"]
    single = sample_scene(3, 4)
    told = full_caption_spec(single)
    told = replace(told, solids=(replace(told.solids[0], place=None),))
    right = check(render(single, turntable(0), FOV, 24), told, turntable(0), FOV)
    assert set(right) == {"colour", "solid", "views", "all"}


def test_score_is_the_share_of_each_attribute():
    scenes = [sample_scene(4, i, "held_out", 0.5) for i in range(30)]
    poses = [turntable(i) for i in range(30)]
    samples = [render(scene, pose, FOV, 24) for scene, pose in zip(scenes, poses, strict=True)]
    captions = [canonical(full_caption_spec(scene)) for scene in scenes]
    right = score(samples, captions, poses, [FOV] * 30)
    assert right == dict.fromkeys(("colour", "solid", "place", "views", "all", "relation", "two_solids"), 1.0)
    wrong = score(samples, captions[1:] + captions[:1], poses, [FOV] * 30)
    assert wrong["all"] < 0.05
    assert wrong["place"] == pytest.approx(1 / len(PLACES), abs=0.25)
    assert score(samples[:1], ["a dog"], poses[:1], [FOV]) == {}


@pytest.mark.parametrize("value", [0, 128, 255])
def test_nothing_is_seen_where_nothing_is(value):
    noise = np.random.default_rng(0).integers(0, value + 1, (6, 24, 24, 3)).astype(np.uint8)
    for pairs in (0.0, 1.0):
        assert not check(noise, sample_scene(0, 1, "train", pairs), turntable(0), FOV)["all"]
