"""Moving shapes: clips, their captions, and the checker that reads motion."""

from __future__ import annotations

import numpy as np
import pytest

from t2x_plugins.shapes.motion import MOTIONS, ClipScene, Motion, combinations, render_clip, sample_clip
from t2x_plugins.shapes.motion_captions import ClipWords, canonical, parse, phrases, words_of
from t2x_plugins.shapes.motion_checker import check_clip, read_clip, score
from t2x_plugins.shapes.scene import COLOURS

OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}


def clips(count: int, split: str = "train", frames: int = 8, fps: tuple[float, ...] = (4.0, 6.0)) -> list[ClipScene]:
    return [sample_clip(0, id, split, frames, fps, ("black", "white", "grey", "navy")) for id in range(count)]


@pytest.mark.parametrize("number", [30, pytest.param(150, marks=pytest.mark.slow)])
def test_clips_are_read_as_they_were_made(number: int) -> None:
    for clip in clips(number):
        right = check_clip(render_clip(clip), clip.fps, words_of(clip))
        assert right["all"], (clip.motion, right)


@pytest.mark.parametrize("number", [30, pytest.param(150, marks=pytest.mark.slow)])
def test_noise_and_soft_edges_do_little_harm(number: int) -> None:
    rng, right = np.random.default_rng(0), []
    for clip in clips(number, "held_out"):
        frames = render_clip(clip) / 127.5 - 1
        soft = (frames + np.roll(frames, 1, 1) + np.roll(frames, 1, 2) + np.roll(frames, (1, 1), (1, 2))) / 4
        noisy = np.clip(soft + 0.08 * rng.standard_normal(frames.shape), -1, 1)
        right.append(check_clip(noisy, clip.fps, words_of(clip))["motion"])
    assert np.mean(right) >= 0.97


@pytest.mark.parametrize("number", [30, pytest.param(60, marks=pytest.mark.slow)])
def test_other_motions_are_wrong(number: int) -> None:
    """Backwards, at another rate, still, or mirrored: the checker tells each from what was asked for."""
    for clip in clips(number):
        frames, words, motion = render_clip(clip), words_of(clip), clip.motion
        backwards = read_clip(frames[::-1], clip.fps).motion
        if motion.kind == "moves":
            assert backwards == Motion("moves", OPPOSITE[motion.direction], motion.speed)
            assert not check_clip(frames, clip.fps * (1 / 3 if motion.speed == "fast" else 3), words)["speed"]
        elif motion.kind == "appears":
            assert backwards.kind == "disappears"
        elif motion.kind in ("stays", "bounces"):
            assert backwards == motion
        if motion.kind != "stays":
            still = np.repeat(frames[-1:], 8, 0)
            assert not check_clip(still, clip.fps, words)["motion"]
        if motion.direction in ("left", "right"):
            mirrored = read_clip(frames[:, :, ::-1], clip.fps).motion
            assert mirrored == Motion(motion.kind, OPPOSITE[motion.direction], motion.speed)


@pytest.mark.parametrize(("rest", "gone"), [(0.1, True), (0.3, False)])
def test_a_dim_rest_counts_once_a_person_would_see_it(rest: float, gone: bool) -> None:
    """`rest` of the object's contrast stays, in its place, in the frames that should be empty."""
    several = [sample_clip(0, id, "train", 8, (4.0,), ("black",)) for id in range(200)]
    several = [clip for clip in several if clip.motion.kind in ("appears", "disappears")]
    assert {clip.colour for clip in several} == set(COLOURS)
    for clip in several:
        frames = render_clip(clip).astype(float)
        first, last = frames[[0, -1]] if clip.motion.kind == "disappears" else frames[[-1, 0]]
        empty = np.array([place is None for place in clip.path])
        frames[empty] += rest * (first - last)
        assert check_clip(frames.round().astype(np.uint8), clip.fps, words_of(clip))["motion"] == gone, clip.colour


def test_the_frame_rate_says_how_fast_it_is() -> None:
    """The same frames are slow at a low frame rate and fast at a high one."""
    clip = next(clip for clip in clips(200, fps=(6.0,)) if clip.motion.speed == "slowly")
    frames = render_clip(clip)
    assert read_clip(frames, 6).motion.speed == "slowly"
    assert read_clip(frames, 18).motion.speed == "fast"


def test_objects_stay_inside_at_all_rates_and_lengths() -> None:
    for frames, fps in ((8, 4.0), (4, 8.0), (11, 6.0), (1, 8.0)):
        for clip in clips(60, frames=frames, fps=(fps,)):
            places = np.array([place for place in clip.path if place is not None])
            assert len(clip.path) == frames
            assert places.min() - clip.radius >= 0.0199
            assert places.max() + clip.radius <= 0.9801


def test_some_combinations_are_held_out() -> None:
    train, held_out = combinations("train"), combinations("held_out")
    assert len(train) + len(held_out) == 5 * 8 * len(MOTIONS)
    assert not {*train} & {*held_out}
    assert 0.08 < len(held_out) / len(train) < 0.2
    assert {motion.kind for *_, motion in held_out} == {motion.kind for *_, motion in train}
    made = {(clip.shape, clip.colour, clip.motion) for clip in clips(len(held_out), "held_out")}
    assert made == {*held_out}


def test_every_wording_is_read_back() -> None:
    wordings = set()
    for shape, colour, motion in combinations("train"):
        words = ClipWords(shape, colour, motion)
        for text in phrases(words):
            assert parse(text) == words
            wordings.add(text)
    assert len(wordings) > 5000


@pytest.mark.parametrize(
    ("caption", "motion"),
    [
        ("A red circle moves slowly to the left.", Motion("moves", "left", "slowly")),
        ("a video of an orange hoop that bounces off the top edge", Motion("bounces", "up")),
        ("the blue square vanishes", Motion("disappears")),
        ("a red circle moves to the left", None),
        ("a red circle on the left", None),
        ("a red circle moves slowly quickly up", None),
        ("a dog moves slowly up", None),
        ("", None),
    ],
)
def test_what_a_person_types(caption: str, motion: Motion | None) -> None:
    words = parse(caption)
    assert (words.motion if words else None) == motion
    if words:
        assert parse(canonical(words)) == words


def test_scores_are_shares_by_attribute_and_by_kind() -> None:
    made = clips(12)
    frames = [render_clip(clip) for clip in made]
    captions = [canonical(words_of(clip)) for clip in made]
    rates = [clip.fps for clip in made]
    assert set(score(frames, captions, rates).values()) == {1.0}
    turned = score([f[:, ::-1, ::-1] for f in frames], captions, rates)
    assert turned["colour"] == 1
    assert turned["motion"] < 0.6
    assert score(frames, ["a dog"] * 12, rates) == {}
    black = np.zeros((8, 32, 32, 3), np.uint8)
    assert score([black], captions[:1], rates[:1])["all"] == 0
