"""The checker of solids is right on true views, and finds out what is wrong in a single one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from t2x_plugins.shapes.scene import COLOURS
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
    assert right_of(pairs, size, views, count=50)["all"] >= 0.98  # one of 50 may fail; over 200: 0.995, slow


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(("size", "views"), [(24, 6), (32, 4)])
def test_right_on_many_true_views(pairs, size, views):
    assert right_of(pairs, size, views, count=400)["all"] >= 0.995


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


def one_view(shown, i):
    """The view that is spoilt, and the shown pixels in it."""
    view = shown[i % len(shown)]
    return view, view.any(-1)


def speck(shown, i, scene, poses):
    """One pixel, three away from all that is seen."""
    view, lit = one_view(shown, i)
    free = [(y, x) for y, x in np.argwhere(~lit) if not lit[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4].any()]
    view[free[np.random.default_rng(i).integers(len(free))]] = [(255, 0, 0), (255, 255, 255), (0, 255, 0)][i % 3]
    return shown


def foreign_pixel(shown, i, scene, poses):
    """In the midst of a solid, of the colour that is least like those of the scene, and of their mixtures."""
    view, lit = one_view(shown, i)
    basis, _ = np.linalg.qr(np.array([COLOURS[solid.colour] for solid in scene.solids], float).T)
    pure = np.eye(3) * 255
    view[tuple(np.argwhere(lit)[lit.sum() // 2])] = pure[np.linalg.norm(pure - pure @ basis @ basis.T, axis=1).argmax()]
    return shown


def blob(shown, i, scene, poses):
    """Something small of the same colour beside it, 3 × 3 pixels."""
    view, lit = one_view(shown, i)
    size = len(lit)
    free = [
        (y, x)
        for y, x in np.argwhere(~lit)
        if 2 <= min(y, x) <= max(y, x) < size - 2 and not lit[y - 2 : y + 3, x - 2 : x + 3].any()
    ]
    y, x = free[np.random.default_rng(i).integers(len(free))]
    view[y - 1 : y + 2, x - 1 : x + 2] = view[lit][view[lit].sum(1).argmax()]
    return shown


def disc(shown, i, scene, poses):
    """What is seen in one view becomes a flat disc as large, of one colour."""
    view, lit = one_view(shown, i)
    size, (y, x) = len(lit), np.argwhere(lit).mean(0)
    colour = view[lit][view[lit].sum(1).argmax()]
    rows, columns = np.mgrid[:size, :size]
    view[:] = 0
    view[(rows - y) ** 2 + (columns - x) ** 2 <= lit.sum() / np.pi] = colour
    return shown


def half(shown, i, scene, poses):
    view, lit = one_view(shown, i)
    view[:, : int(np.median(np.argwhere(lit)[:, 1]))] = 0
    return shown


def other_solid(shown, i, scene, poses):
    thing = scene.solids[i % len(scene.solids)]
    kind = [kind for kind in SOLIDS if kind != thing.kind][i % 3]
    solids = tuple(replace(solid, kind=kind) if solid is thing else solid for solid in scene.solids)
    view, _ = one_view(shown, i)
    view[:] = render(replace(scene, solids=solids), poses, FOV, shown.shape[1])[i % len(shown)]
    return shown


def missing(shown, i, scene, poses):
    one_view(shown, i)[0][:] = 0
    return shown


def shapeless(shown, i, scene, poses):
    """All views softened until no solid can be told."""
    for _ in range(8):
        shown = blur(shown)
    return shown.astype(np.uint8)


SPOILT = {f.__name__: f for f in (speck, foreign_pixel, blob, disc, half, other_solid, missing, shapeless)}
ARRANGED = {
    "reversed": lambda shown: shown[::-1],
    "mirrored": lambda shown: shown[:, :, ::-1],
    "repeated": lambda shown: np.repeat(shown[:1], len(shown), 0),
    "two exchanged": lambda shown: shown[[1, 0, *range(2, len(shown))]],
    "another order": lambda shown: shown[[0, 3, 1, 5, 2, 4]],
}


def refused(pairs, change, count):
    """Share of the scenes that are wrong after a change; where it makes none, None is left out."""
    found = []
    for i in range(count):
        scene = sample_scene(1, i, "train", 1.0 if pairs else 0.0)
        changed = change(render(scene, turntable(i), FOV, 24), i, scene, turntable(i))
        if changed is not None:
            found.append(not check(changed, scene, turntable(i), FOV)["all"])
    assert len(found) >= count / 2
    return np.mean(found)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("change", SPOILT)
def test_what_is_wrong_in_a_view_is_found_out(change, pairs):
    assert refused(pairs, SPOILT[change], 20) >= 0.95


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("change", ARRANGED)
def test_views_in_another_arrangement_are_found_out(change, pairs):
    """What stands in the middle, or is a stack, looks nearly the same from all sides."""

    def arranged(shown, i, scene, poses):
        symmetric = scene.solids[0].place == "middle" or scene.relation in ("on top of", "under")
        return None if symmetric else ARRANGED[change](shown)

    assert refused(pairs, arranged, 20) >= 0.95


def test_a_turned_scene_stands_somewhere_else():
    """All views one camera further: the place is another one, and the light does not turn along."""
    found = []
    for i in range(30):
        scene = sample_scene(1, i)
        if scene.solids[0].place != "middle":
            found.append(check(np.roll(render(scene, turntable(i), FOV, 24), 2, 0), scene, turntable(i), FOV))
    assert not any(right["place"] for right in found)
    assert not any(right["all"] for right in found)


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
