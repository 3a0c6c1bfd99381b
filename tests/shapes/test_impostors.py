"""What looks like the shapes world and is not of it is refused; what a decent network makes of the world is not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from t2x_plugins.shapes import check, read, render, sample_scene
from t2x_plugins.shapes.motion import render_clip, sample_clip
from t2x_plugins.shapes.motion_captions import ClipWords
from t2x_plugins.shapes.motion_checker import check_clip
from t2x_plugins.shapes.scene import BACKGROUNDS, COLOURS, SIZES
from tests.shapes.impostors import OUTLINES, TRUE, draw, impostor, regular

TOO_SMALL = {(32, "small", "octagon")}
"""At a radius of 3.5 pixels an octagon is a circle."""


def refused(image: NDArray) -> bool:
    seen = read(image)
    return len(seen.objects) != 1 or None in (seen.objects[0].shape, seen.objects[0].colour) or seen.specks > 0


def share(kind: str, side: int, size: str, number: int = 20) -> float:
    return float(np.mean([refused(impostor(kind, side, SIZES[size], i)[0]) for i in range(number)]))


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("kind", OUTLINES)
def test_impostors_are_refused(kind: str, side: int, size: str) -> None:
    if (side, size, kind) not in TOO_SMALL:
        assert share(kind, side, size) >= 0.95


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("kind", TRUE)
def test_another_renderers_shapes_are_not(kind: str, side: int) -> None:
    assert share(kind, side, "small") + share(kind, side, "large") <= 0.05


def soft(image: NDArray, sigma: float) -> NDArray[np.float64]:
    weights = np.exp(-(np.arange(-6, 7) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        padding = [(0, 0)] * 3
        padding[axis] = (6, 6)
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, padding, mode="edge"), 13, axis)
        image = windows @ (weights / weights.sum())
    return image


def moved(image: NDArray, rng: np.random.Generator) -> NDArray[np.float64]:
    """By up to half a pixel, with what is between pixels interpolated."""
    values = image.astype(np.float64)
    for axis in (0, 1):
        part = rng.uniform(0, 0.5)
        values = (1 - part) * values + part * np.roll(values, 1, axis)
    return values


def noisy(image: NDArray, level: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """In [-1, 1], as a network gives it."""
    return np.clip(image / 127.5 - 1 + rng.normal(0, level, image.shape), -1, 1)


CHANGES = {
    "none": lambda image, rng: image,
    "noise": lambda image, rng: noisy(image, 0.1, rng),
    "soft": lambda image, rng: noisy(soft(image, 0.5), 0.05, rng),
    "moved": lambda image, rng: noisy(moved(image, rng), 0.0, rng),
}


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.slow
def test_decent_samples_are_right(change: str, side: int) -> None:
    scenes = [sample_scene(7, id, two_objects=0.3) for id in range(200)]
    images = [CHANGES[change](render(scene, side), np.random.default_rng(i)) for i, scene in enumerate(scenes)]
    right = [check(image, scene)["all"] for image, scene in zip(images, scenes, strict=True)]
    assert np.mean(right) >= 0.995


@pytest.mark.parametrize("side", [32, 64])
def test_stray_pixels_are_seen(side: int) -> None:
    found = []
    for id in range(40):
        scene, rng = sample_scene(9, id), np.random.default_rng(id)
        image = render(scene, side)
        others = [colour for colour in COLOURS if colour != scene.objects[0].colour]
        for _ in range(3):
            image[tuple(rng.integers(0, side, 2))] = COLOURS[str(rng.choice(others))]
        found.append(not check(image, scene)["all"])
    assert np.mean(found) >= 0.95


def test_colours_between_two_names_have_none() -> None:
    found = []
    for first, second in (
        ("red", "purple"),
        ("green", "cyan"),
        ("blue", "cyan"),
        ("orange", "yellow"),
        ("red", "pink"),
    ):
        between = tuple((a + b) / 2 for a, b in zip(COLOURS[first], COLOURS[second], strict=True))
        for background in BACKGROUNDS.values():
            found.append(
                refused(np.round(draw(regular(200), 32, (0.5, 0.5), 0.2, between, background)).astype(np.uint8))
            )
    assert np.mean(found) >= 0.95


@pytest.mark.parametrize("side", [32, 64])
def test_what_is_blurred_out_has_no_shape(side: int) -> None:
    found = [refused(np.round(soft(render(sample_scene(3, id), side), side / 16)).astype(np.uint8)) for id in range(40)]
    assert np.mean(found) >= 0.95


@pytest.mark.parametrize("side", [32, 64])
def test_two_that_overlap_are_not_one(side: int) -> None:
    found = []
    for i in range(40):
        rng = np.random.default_rng(i)
        one, other = (COLOURS[str(c)] for c in rng.choice(list(COLOURS), 2, replace=False))
        below = draw(regular(200), side, (0.45, 0.5), 0.165, one, (0, 0, 0))
        above = draw(regular(200), side, (0.6, 0.55), 0.165, (1, 1, 1), (0, 0, 0))
        found.append(refused(np.round(below * (1 - above) + above * np.array(other)).astype(np.uint8)))
    assert np.mean(found) >= 0.95


def clips(number: int) -> list:
    return [sample_clip(5, id, "train", 8, [5.0], ["black", "grey"]) for id in range(number)]


def right(frames: NDArray, clip) -> bool:
    return check_clip(frames, clip.fps, ClipWords(clip.shape, clip.colour, clip.motion))["all"]


def test_true_clips_are_right_and_slightly_noisy_ones() -> None:
    found = [right(noisy(render_clip(clip), 0.05, np.random.default_rng(i)), clip) for i, clip in enumerate(clips(50))]
    assert np.mean(found) >= 0.98


def missing(frames: NDArray, other: NDArray) -> NDArray:
    return np.concatenate([frames[:3], np.broadcast_to(frames[0, 0, 0], frames[3:4].shape), frames[4:]])


def jumped(frames: NDArray, other: NDArray) -> NDArray:
    return np.concatenate([frames[:5], np.roll(frames[5:6], frames.shape[1] // 6, (1)), frames[6:]])


def swapped(frames: NDArray, other: NDArray) -> NDArray:
    return np.concatenate([frames[:6], other[6:7], frames[7:]])


@pytest.mark.parametrize("change", [missing, jumped, swapped])
def test_a_clip_with_one_wrong_frame_is_refused(change) -> None:
    from dataclasses import replace

    found = []
    for clip in clips(60):
        if clip.path[3] is None or clip.path[5] is None or clip.path[6] is None or clip.path[4] is None:
            continue
        other = replace(clip, shape="ring" if clip.shape != "ring" else "cross")
        found.append(not right(change(render_clip(clip), render_clip(other)), clip))
    assert np.mean(found) >= 0.95


@pytest.mark.parametrize("kind", ["hexagon", "heart", "blob"])
def test_a_rough_reading_names_what_comes_nearest_and_says_that_it_is_not_exact(kind: str) -> None:
    image, _ = impostor(kind, 32, SIZES["large"], 0)
    rough, strict = read(image, strict=False).objects[0], read(image).objects[0]
    assert (rough.shape is not None, rough.exact) == (True, False)
    assert strict.shape is None


def test_exact_is_all_of_the_strict_check() -> None:
    scenes = (sample_scene(3, i, "train", two_objects=0.0, backgrounds=["black"]) for i in range(100))
    scene = next(scene for scene in scenes if (scene.objects[0].shape, scene.objects[0].size) == ("circle", "large"))
    true = render(scene)
    assert check(true, scene, strict=False) == {**check(true, scene), "exact": True}
    frayed = true.copy()
    frayed[::2] = np.roll(true, 1, axis=1)[::2]  # every other row by a pixel
    found = check(frayed, scene, strict=False)
    assert (found["shape"], found["exact"]) == (True, False)
    assert not check(frayed, scene)["shape"]
