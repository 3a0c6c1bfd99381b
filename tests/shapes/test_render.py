"""Images have the same bytes on every machine and measure what the scene says."""

import hashlib

import numpy as np
import pytest

from t2x_plugins.shapes import Scene, SceneObject, render, sample_scene
from t2x_plugins.shapes.render import AREAS, CENTROIDS, SUBSAMPLES, coverage
from t2x_plugins.shapes.scene import BACKGROUNDS, COLOURS, SHAPES


def test_golden_images() -> None:
    digest = hashlib.sha256()
    for id in range(200):
        scene = sample_scene(0, id, two_objects=0.4)
        for size in ((32, 32), (64, 64), (24, 40)):
            digest.update(render(scene, *size).tobytes())
    assert digest.hexdigest() == "6c3360df8de9efcab68c6dc307ea33f0270415ad7b0f62e374bd549ed34a4953"


@pytest.mark.parametrize("shape", SHAPES)
def test_area_and_centroid_are_those_of_the_shape(shape: str) -> None:
    where, counts = coverage(shape, 60.0, 55.0, 40.0, 120, 130)
    covered = np.zeros((120, 130))
    covered[where] = counts / SUBSAMPLES**2
    assert covered.sum() == pytest.approx(AREAS[shape] * 40**2, rel=0.02)
    assert covered.sum(0) @ (np.arange(130) + 0.5) / covered.sum() == pytest.approx(60, abs=0.02)
    assert covered.sum(1) @ (np.arange(120) + 0.5) / covered.sum() == pytest.approx(55 + 40 * CENTROIDS[shape], abs=0.1)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_that_leaves_the_image_is_cut_off(shape: str) -> None:
    (rows, columns), counts = coverage(shape, 1.3, 30.0, 7.5, 32, 32)
    _, whole = coverage(shape, 33.3, 30.0, 7.5, 96, 96)
    assert (columns.start, columns.stop) == (0, 9)
    assert rows.stop == 32
    np.testing.assert_array_equal(counts, whole[: rows.stop - rows.start, 7:])


def test_colours_are_pure_inside_and_outside_and_mixed_between() -> None:
    scene = Scene((SceneObject("circle", "red", "large", "centre", 0.5, 0.5, 0.24),), "navy")
    image = render(scene, 32)
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.uint8
    assert tuple(image[16, 16]) == COLOURS["red"]
    assert tuple(image[0, 0]) == BACKGROUNDS["navy"]
    ends = np.array([COLOURS["red"], BACKGROUNDS["navy"]])
    assert (image >= ends.min(0)).all()
    assert (image <= ends.max(0)).all()
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 5


def test_images_need_not_be_square() -> None:
    scene = Scene((SceneObject("square", "cyan", "medium", "right", 0.72, 0.5, 0.165),), "black")
    image = render(scene, 32, 64)
    rows, columns = np.nonzero(image.any(-1))
    assert image.shape == (32, 64, 3)
    assert (columns.min() + columns.max() + 1) / 2 / 64 == pytest.approx(0.72, abs=0.01)
    assert np.ptp(columns) == np.ptp(rows)


def test_too_small_a_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16 pixels a side, not 32×12"):
        render(sample_scene(0, 0), 32, 12)
