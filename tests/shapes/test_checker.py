"""The checker is right on true images, at chance on wrong captions, and sees nothing where nothing is."""

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from t2x_plugins.shapes import (
    Scene,
    canonical,
    caption_spec,
    check,
    full_caption_spec,
    keyed_random,
    parse,
    read,
    render,
    render_caption,
    sample_scene,
    score,
)
from t2x_plugins.shapes.scene import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES


def blur(image: NDArray) -> NDArray:
    """Weights ¼, ½, ¼ along both axes."""
    values = image.astype(np.float64)
    for axis in (0, 1):
        before, after = np.roll(values, 1, axis), np.roll(values, -1, axis)
        values = (before + 2 * values + after) / 4
    return values


def add_noise(image: NDArray, level: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(level).normal(0, 8, image.shape)
    return np.clip(np.round(image + noise), 0, 255).astype(np.uint8)


def share_right(images: list[NDArray], scenes: list[Scene]) -> dict[str, float]:
    counts: Counter[str] = Counter()
    for image, scene in zip(images, scenes, strict=True):
        counts.update(name for name, right in check(image, scene).items() if right)
    return {name: count / len(scenes) for name, count in counts.items()}


@pytest.mark.parametrize(
    ("size", "number"),
    [
        ((32, 32), 150),
        ((64, 64), 100),
        ((32, 64), 50),
        ((48, 32), 50),
        pytest.param((32, 32), 1000, marks=pytest.mark.slow),
        pytest.param((64, 64), 1000, marks=pytest.mark.slow),
    ],
)
def test_right_on_true_images(size: tuple[int, int], number: int) -> None:
    scenes = [sample_scene(1, id, two_objects=0.4) for id in range(number)]
    assert share_right([render(scene, *size) for scene in scenes], scenes)["all"] >= 0.99


@pytest.mark.parametrize("side", [32, 64])
def test_right_on_soft_and_noisy_images(side: int) -> None:
    scenes = [sample_scene(2, id, two_objects=0.4) for id in range(200)]
    images = [render(scene, side) for scene in scenes]
    assert share_right([add_noise(p, i) for i, p in enumerate(images)], scenes)["all"] >= 0.95
    assert share_right([blur(p).round().astype(np.uint8) for p in images], scenes)["all"] >= 0.95
    assert share_right([add_noise(blur(p), i) for i, p in enumerate(images)], scenes)["all"] >= 0.95


def test_right_on_slightly_wrong_colours() -> None:
    scenes = [sample_scene(3, id, two_objects=0.4) for id in range(200)]
    images = [(render(scene) * 0.85 + 20).astype(np.uint8) for scene in scenes]
    assert share_right(images, scenes)["all"] >= 0.95


def test_at_chance_on_the_captions_of_other_images() -> None:
    scenes = [sample_scene(4, id) for id in range(400)]
    captions = [canonical(full_caption_spec(scene)) for scene in scenes]
    result = score([render(scene) for scene in scenes], captions[1:] + captions[:1])
    for name, words in (
        ("shape", SHAPES),
        ("colour", COLOURS),
        ("size", SIZES),
        ("place", PLACES),
        ("background", BACKGROUNDS),
    ):
        assert result[name] == pytest.approx(1 / len(words), abs=0.045), name
    assert result["all"] < 0.01


def test_at_chance_on_other_relations() -> None:
    scenes = [sample_scene(5, id, two_objects=1.0) for id in range(200)]
    captions = [canonical(full_caption_spec(scene)) for scene in scenes]
    result = score([render(scene) for scene in scenes], captions[1:] + captions[:1])
    assert 0.1 < result["relation"] < 0.3  # a relation needs objects that can be told apart: not quite 1/4
    assert result["two_objects"] < 0.01


def test_each_attribute_is_judged_by_itself() -> None:
    image = render(sample_scene(0, 0))
    (seen,) = read(image).objects
    truth = f"a {seen.size} {seen.colour} {seen.shape} on the {seen.place}"
    wanted = parse(truth)
    assert wanted is not None
    assert all(check(image, wanted).values())
    for name, value, other in (
        ("shape", seen.shape, "ring"),
        ("colour", seen.colour, "green"),
        ("size", seen.size, "large"),
        ("place", seen.place, "bottom left"),
    ):
        assert value != other
        wrong = parse(truth.replace(str(value), other))
        assert wrong is not None
        assert {key for key, right in check(image, wrong).items() if not right} == {name, "all"}


def test_only_what_is_said_counts() -> None:
    scene = sample_scene(0, 0)
    wanted = parse(f"a {scene.objects[0].colour} {scene.objects[0].shape}")
    assert wanted is not None
    assert check(render(scene), wanted) == {"count": True, "shape": True, "colour": True, "all": True}


def test_a_relation_holds_from_both_sides_and_not_the_other_way_round() -> None:
    for id in range(50):
        scene = sample_scene(6, id, two_objects=1.0)
        image, wanted = render(scene), full_caption_spec(scene)
        assert check(image, wanted.mirrored())["all"]
        swapped = type(wanted)(wanted.objects[::-1], wanted.relation)
        assert check(image, swapped) == {
            "count": True,
            "shape": True,
            "colour": True,
            "size": True,
            "relation": False,
            "all": False,
        }


def test_one_object_too_many_is_wrong() -> None:
    scene = sample_scene(7, 0, two_objects=1.0)
    first = full_caption_spec(scene).objects[0]
    wanted = parse(f"a {first.colour} {first.shape}")
    assert wanted is not None
    result = check(render(scene), wanted)
    assert not result["count"]
    assert not result["all"]


def test_specks_are_seen_and_leave_the_object_as_it_is() -> None:
    scene = sample_scene(0, 0)
    image = render(scene)
    image[1, 1], image[30, 30:32] = 255 - image[1, 1], 255 - image[30, 30]
    result = check(image, scene)
    assert {name for name, right in result.items() if not right} == {"count", "all"}
    assert read(image).specks == 3


def blanks() -> dict[str, NDArray]:
    rng = np.random.default_rng(0)
    return {
        "black": np.zeros((32, 32, 3), np.uint8),
        "grey": np.full((32, 32, 3), 115, np.uint8),
        "uniform noise": rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
        "normal noise": rng.normal(0, 0.5, (32, 32, 3)),
        "faint noise": rng.normal(0, 0.2, (32, 32, 3)),
        "stripes": np.where(np.arange(32)[:, None, None] % 8 < 4, 0, 255 * np.ones((32, 32, 3))).astype(np.uint8),
        "not a number": np.full((32, 32, 3), np.nan),
    }


@pytest.mark.parametrize("name", blanks())
def test_nothing_is_right_where_nothing_is(name: str) -> None:
    image = blanks()[name]
    assert not any(thing.shape for thing in read(image).objects)
    for id in range(40):
        assert not check(image, sample_scene(8, id, two_objects=0.3))["all"]


def test_floats_in_minus_one_to_one_are_images_too() -> None:
    image = render(sample_scene(0, 3))
    assert read(image.astype(np.float32) / 127.5 - 1).objects[0].shape == read(image).objects[0].shape
    np.testing.assert_allclose(
        read(image.astype(np.float32) / 127.5 - 1).objects[0].centre, read(image).objects[0].centre, atol=1e-5
    )


def test_measures_are_those_of_the_scene() -> None:
    for id in range(100):
        scene = sample_scene(9, id)
        (seen,) = read(render(scene, 64)).objects
        (drawn,) = scene.objects
        np.testing.assert_allclose(seen.centre, (drawn.x, drawn.y), atol=0.005)
        assert seen.radius == pytest.approx(drawn.radius, rel=0.03)


def test_score_tells_one_object_from_two_and_passes_over_the_rest() -> None:
    scenes = [sample_scene(10, id, two_objects=0.5) for id in range(40)]
    images = [render(scene) for scene in scenes]
    rng = keyed_random("words")
    captions = [render_caption(caption_spec(scene, rng), rng) for scene in scenes]
    result = score(images, captions)
    assert result == dict.fromkeys(("count", "shape", "colour", "size", "place", "all", "relation", "two_objects"), 1.0)
    assert score(np.stack(images), captions) == result
    assert score(images[:1], ["a dog"]) == {}
    assert score(images[:2], ["a dog", captions[1]]) == score(images[1:2], captions[1:2])
