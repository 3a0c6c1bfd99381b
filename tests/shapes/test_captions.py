"""Every wording that is ever written is read back as what was meant."""

import pytest

from t2x_plugins.shapes import (
    CaptionSpec,
    ObjectWords,
    canonical,
    caption_spec,
    full_caption_spec,
    keyed_random,
    parse,
    phrases,
    render_caption,
    sample_scene,
)
from t2x_plugins.shapes.scene import BACKGROUNDS, COLOURS, PLACES, RELATIONS, SHAPES, SIZES

RED_CIRCLE = ObjectWords("circle", "red", "large", "left")


def test_the_canonical_wording_is_plain() -> None:
    assert canonical(CaptionSpec((RED_CIRCLE,))) == "a large red circle on the left"
    assert (
        canonical(CaptionSpec((ObjectWords("square", "orange"),), None, "grey"))
        == "an orange square on a grey background"
    )
    pair = CaptionSpec((ObjectWords("ring", "orange"), ObjectWords("cross", "blue", "small")), "left of")
    assert canonical(pair) == "an orange ring to the left of a small blue cross"


def test_every_wording_is_read_back() -> None:
    everything = [
        CaptionSpec((ObjectWords(shape, colour, size, place),), None, background)
        for shape in SHAPES
        for colour, size, place, background in [
            *((colour, "small", "top left", None) for colour in COLOURS),
            *(("orange", size, None, "navy") for size in [*SIZES, None]),
            *(("blue", None, place, "white") for place in [*PLACES, None]),
            *(("cyan", "large", "centre", background) for background in BACKGROUNDS),
        ]
    ]
    everything += [
        CaptionSpec((ObjectWords(shape, "red", size), ObjectWords(other, "orange", other_size)), relation, background)
        for shape, other in zip(SHAPES, SHAPES[1:] + SHAPES[:1], strict=True)
        for relation in RELATIONS
        for size, other_size, background in ((None, None, None), ("small", "large", None), ("medium", None, "black"))
    ]
    texts = set()
    for description in everything:
        for text in phrases(description):
            assert text == text.lower()
            assert parse(text) in (description, description.mirrored()), text
            texts.add(text)
    assert len(texts) > 10_000


def test_what_is_drawn_is_one_of_the_wordings() -> None:
    wordings = set(phrases(CaptionSpec((RED_CIRCLE,))))
    drawn = {render_caption(CaptionSpec((RED_CIRCLE,)), keyed_random("caption", draw)) for draw in range(2000)}
    assert drawn <= wordings
    assert len(drawn) > 0.8 * len(wordings)
    assert {"a large red circle on the left", "red circle, large, on the left", "a big red circle on the left"} <= drawn


def test_the_same_scene_takes_different_words_and_the_same_key_the_same() -> None:
    scene = sample_scene(0, 0)
    texts = [
        render_caption(caption_spec(scene, rng, omit=0.5, background=0.5), rng)
        for rng in map(keyed_random, [1, 2, 3, 1])
    ]
    assert texts[0] == texts[3]
    assert len(set(texts)) == 3


def test_only_size_place_and_background_are_ever_left_out() -> None:
    full = full_caption_spec(sample_scene(0, 0))
    rng = keyed_random(0)
    said = [caption_spec(sample_scene(0, 0), rng, omit=0.25, background=0.5) for _ in range(2000)]
    assert all(
        d.objects[0].shape == full.objects[0].shape and d.objects[0].colour == full.objects[0].colour for d in said
    )
    assert sum(d.objects[0].size is None for d in said) / 2000 == pytest.approx(0.25, abs=0.04)
    assert sum(d.objects[0].place is None for d in said) / 2000 == pytest.approx(0.25, abs=0.04)
    assert sum(d.background is not None for d in said) / 2000 == pytest.approx(0.5, abs=0.04)
    assert caption_spec(sample_scene(0, 0), rng).objects == full.objects


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a big red circle on the left", CaptionSpec((RED_CIRCLE,))),
        ("A large RED circle, on the left of the image.", CaptionSpec((RED_CIRCLE,))),
        ("a huge red disk on the left-hand side", CaptionSpec((RED_CIRCLE,))),
        ("green cross", CaptionSpec((ObjectWords("cross", "green"),))),
        ("circle", CaptionSpec((ObjectWords("circle"),))),
        (
            "Small pink donut in the upper-right corner",
            CaptionSpec((ObjectWords("ring", "pink", "small", "top right"),)),
        ),
        (
            "a blue box at the top center on white",
            CaptionSpec((ObjectWords("square", "blue", None, "top"),), None, "white"),
        ),
        ("the cyan triangle is in the middle", CaptionSpec((ObjectWords("triangle", "cyan", None, "centre"),))),
        (
            "a blue square beneath a red box on a gray background",
            CaptionSpec((ObjectWords("square", "blue"), ObjectWords("square", "red")), "below", "grey"),
        ),
        (
            "a small red circle on the left side of a big blue ring",
            CaptionSpec((ObjectWords("circle", "red", "small"), ObjectWords("ring", "blue", "large")), "left of"),
        ),
        (
            "red ring at the bottom and a tiny blue square at the top",
            CaptionSpec((ObjectWords("ring", "red"), ObjectWords("square", "blue", "small")), "below"),
        ),
    ],
)
def test_what_a_person_types_is_read(caption: str, expected: CaptionSpec) -> None:
    assert parse(caption) == expected


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a dog on the left",
        "something large and red",
        "a red dog and a circle",
        "a red blue circle",
        "a white circle",
        "a small large ring",
        "two red circles",
        "a red circle and a blue square",
        "a red circle, a blue square and a green ring",
        "a red circle on the left above a blue square",
    ],
)
def test_other_captions_are_not_of_this_world(caption: str) -> None:
    assert parse(caption) is None
