"""Hashes, pairs, texts, what clips show, and processes, each against something independent."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2x_core.data_check import processes
from t2x_core.data_check.alike import CROWD, close_pairs
from t2x_core.data_check.clip_signs import Watch
from t2x_core.data_check.fingerprint import perceptual_hash
from t2x_core.data_check.look import LookJob
from t2x_core.data_check.processes import Lost, Processes
from t2x_core.data_check.texts import repaired
from t2x_core.video.reader import Decoded
from tests.data_check.damaged_set import encoded, picture
from tests.data_check.jobs import Slow, Square
from tests.video.corpus import all_videos


@pytest.mark.parametrize("number", range(8))
def test_the_hash_is_that_of_imagehash(number: int) -> None:
    imagehash = pytest.importorskip("imagehash")
    image = picture(number, 40 + 17 * number)
    theirs = imagehash.phash(image).hash
    assert perceptual_hash(image) == int("".join("01"[int(bit)] for bit in theirs.ravel()), 2)


def test_the_hash_stays_near_when_an_image_is_saved_anew() -> None:
    import io

    hashes = [perceptual_hash(picture(n, 120)) for n in range(30)]
    for n, own in enumerate(hashes):
        smaller = Image.open(io.BytesIO(encoded(picture(n, 120).resize((70, 70)), "JPEG", quality=40)))
        assert (perceptual_hash(smaller) ^ own).bit_count() <= 6
    assert min((a ^ b).bit_count() for a, b in itertools.combinations(hashes, 2)) > 6


@pytest.mark.parametrize("distance", [0, 3, 6, 7])
def test_close_pairs_are_those_of_a_plain_loop(distance: int) -> None:
    rng = np.random.default_rng(distance)
    hashes = rng.integers(0, 2**64, 400, dtype=np.uint64)
    for i in range(0, 200, 2):  # so many bits changed
        for bit in rng.choice(64, rng.integers(0, 10), replace=False):
            hashes[i + 1] = (hashes[i + 1] if bit else hashes[i]) ^ np.uint64(1 << int(bit))
        hashes[i + 1] = hashes[i] ^ np.bitwise_or.reduce(
            np.asarray([1 << int(b) for b in rng.choice(64, i % 9, replace=False)], np.uint64), initial=np.uint64(0)
        )
    plain = [
        (a, b)
        for b in range(len(hashes))
        for a in range(b)
        if (int(hashes[a]) ^ int(hashes[b])).bit_count() <= distance
    ]
    assert [(int(a), int(b)) for a, b in zip(*close_pairs(hashes, distance), strict=True)] == plain
    assert plain


def test_many_equal_hashes_do_not_cost_their_square() -> None:
    pairs, _ = close_pairs(np.zeros(3000, np.uint64))
    assert len(pairs) <= 3000 * CROWD
    assert len(close_pairs(np.zeros(0, np.uint64))[0]) == 0


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("cafÃ© au lait", "café au lait"),
        ("itâ€™s a dog", "it’s a dog"),
        ("naÃ¯ve Ã¼ber", "naïve über"),
        ("a café", None),
        ("ein schöner Bär, ÄÖÜ", None),
        ("日本語の猫", None),
        ("plain words", None),
        ("25 °C – warm", None),
    ],
)
def test_wrong_encoding(text: str, right: str | None) -> None:
    assert repaired(text) == right


def test_wrong_encoding_of_any_text_is_found_by_going_back() -> None:
    for text in ("Größe", "naïve", "“quoted”", "Ελλάδα", "Привет", "猫"):
        wrong = text.encode().decode("latin-1")
        assert repaired(wrong) == text


def frames_of(levels: list[int], step: float = 0.1) -> Watch:
    """A clip of frames with a bright square that moves on a ground of these levels."""
    watch = Watch()
    for i, level in enumerate(levels):
        pixels = np.full((36, 64, 3), abs(level), np.uint8)
        if level > 0:
            pixels[10:20, i % 50 : i % 50 + 8] = 255 - level
        watch.add(Decoded(i * step, pixels))
    return watch


def kinds(watch: Watch, frames: int = 0, seconds: float = 0.0) -> dict[str, str]:
    return dict(watch.signs(frames, seconds))


def test_what_clips_show() -> None:
    assert kinds(frames_of([100] * 30), 30, 3.0) == {}
    cut = frames_of([100] * 12 + [220] * 18)
    assert cut.cuts() == [12]
    assert kinds(cut)["cuts"] == "1 shot change, at 1.20 s"
    assert "20 of 40" in kinds(frames_of([-5] * 20 + [100] * 20))["black"]
    frozen = kinds(frames_of([100] * 5 + [-100] * 20))
    assert "20 of 25 frames" in frozen["frozen"]
    assert kinds(frames_of([100] * 20), 25)["count"] == "has 20 frames, and its header says 25"
    assert "ends 2 s before" in kinds(frames_of([100] * 20), 0, 4.0)["count"]
    assert "cuts" not in kinds(frames_of([60, 200] * 20))  # all frames differ: that is no cut
    watch = Watch()
    for time_ in (0.0, 0.1, 0.1, 0.05, 0.2):
        watch.add(Decoded(time_, np.full((8, 8, 3), int(600 * time_), np.uint8)))
    assert kinds(watch)["times"] == "2 of 5 frames are not later than the one before"


def test_a_process_is_replaced_after_its_turns(monkeypatch) -> None:
    monkeypatch.setattr(processes, "TURNS", 3)
    found = dict(Processes[tuple[int, int]](1, 60).run((n, Square(n), 0.0) for n in range(7)))
    assert [found[n][0] for n in range(7)] == [n**2 for n in range(7)]  # type: ignore[index]
    assert len({found[n][1] for n in range(7)}) == 3  # type: ignore[index]


def test_who_gives_signs_of_life_may_take_long() -> None:
    began = time.monotonic()
    found = dict(Processes[str](2, 2.5).run(iter([(0, Slow(4.0), 0.0), (1, Slow(0.0), 0.0)])))
    assert found == {0: "done", 1: "done"}
    assert time.monotonic() - began > 4


def test_a_silent_one_is_given_up() -> None:
    from tests.data_check.jobs import NastyLook

    found = dict(
        Processes[str](1, 0.5).run(iter([(0, NastyLook("05.png", False, (0, 0, 0)), 0.5), (1, Square(2), 0.0)]))
    )
    assert isinstance(found[0], Lost)
    assert found[1][0] == 4  # type: ignore[index]


@pytest.mark.slow
def test_good_videos_of_all_kinds_are_good(tmp_path: Path) -> None:
    """Open GOPs, edit lists, uneven rates, AVI, transport streams …: only one whose first frames are lost is named."""
    for made in all_videos(tmp_path, every=2):
        seen = LookJob(str(made.path), True, (255, 255, 255))(lambda: None)
        assert seen.damage is None, made.name
        if "refresh" not in made.name:
            assert (seen.signs, seen.frames) == ((), len(made.numbers)), made.name
