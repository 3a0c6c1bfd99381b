"""Image files of all kinds → pixels."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from t2x_core.data import decode as decode_module
from t2x_core.data import flat as flat_module
from t2x_core.data.decode import DamagedImageError, decode, fit_to, image_size
from tests.data.image_set import KINDS, ORIENTATION, make_image, save_turned, write_damaged, write_kind

WHITE = (255, 255, 255)
LOSSY = ("jpg", "webp")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_image(kind, tmp_path):
    image, file = make_image(57, 43), tmp_path / f"x.{kind.split('-')[0]}"
    write_kind(image.copy(), kind, file)
    wanted = image.convert("L") if "grey" in kind else image.quantize(16) if kind == "png-palette" else image
    wanted = np.asarray(wanted.convert("RGB")).astype(int)
    if "alpha" in kind:
        wanted[:, : 57 // 3] = 255
    found = decode(file, WHITE).permute(1, 2, 0).numpy().astype(int)
    assert found.shape == wanted.shape
    error = np.abs(found - wanted)
    if kind == "png-palette":  # one of its 16 colours is transparent
        error = error[(found != 255).any(-1)]
    assert error.mean() < (10 if kind.startswith(LOSSY) else 6 if kind == "gif" else 0.01)
    for whole in (True, False):
        assert image_size(file, whole) == (43, 57)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_image_is_turned_upright(suffix, orientation, tmp_path):
    image, file = make_image(48, 32), tmp_path / f"x.{suffix}"
    save_turned(image, file, orientation)
    found = decode(file, WHITE)
    assert found.shape == (3, 32, 48)
    assert (found[0, :14, :22] > 150).all()  # the coloured quarter is at the top left
    assert (found[0, 18:, :22] < 150).all()
    assert image_size(file, False) == (32, 48)


def test_the_background_shows_through(tmp_path):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.putpixel((0, 0), (10, 20, 30, 255))
    image.save(tmp_path / "x.png")
    found = decode(tmp_path / "x.png", (1, 2, 3))
    assert found[:, 4, 4].tolist() == [1, 2, 3]
    assert found[:, 0, 0].tolist() == [10, 20, 30]


def test_a_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path):
    smooth = make_image(6, 4).resize((1200, 800), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "x.jpg", quality=95)
    large, small = decode(tmp_path / "x.jpg", WHITE), decode(tmp_path / "x.jpg", WHITE, covering=(64, 96))
    assert large.shape == (3, 800, 1200)
    assert 128 <= small.shape[1] < 400
    error = (fit_to(large, 64, 96) - fit_to(small, 64, 96)).abs()
    assert error.mean() < 0.01


def test_fit_covers_and_crops_where_told():
    wide = torch.zeros(3, 20, 60, dtype=torch.uint8)
    wide[0, :, 40:] = 255
    left, right = (fit_to(wide, 32, 32, place=(0.5, x)) for x in (0.0, 1.0))
    assert left.shape == right.shape == (3, 1, 32, 32)
    assert (left == -1).all()
    assert right[0, 0, :, 4:].min() > 0.9
    assert torch.equal(fit_to(wide, 32, 32, place=(0.5, 1.0), flip=True), right.flip(-1))


def test_what_is_wrong_with_a_file_is_said_in_words(tmp_path):
    for name, reason in write_damaged(tmp_path).items():
        for act in (lambda file: decode(file, WHITE), lambda file: image_size(file, True)):
            with pytest.raises(DamagedImageError) as caught:
                act(tmp_path / name)
            assert str(caught.value).startswith(reason), name
    with pytest.raises(DamagedImageError, match="is not there"):
        decode(tmp_path / "absent.png", WHITE)


@pytest.mark.parametrize("kind", ["L", "RGB", "RGBA", "LA", "P", "I;16", "1"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_image_is_flattened_in_bands_alike(tmp_path, monkeypatch, kind, orientation):
    """To the last bit without a size to cover; with one, it stays at least twice as large and looks the same."""
    generator = np.random.default_rng(0)
    smooth = Image.fromarray(generator.integers(0, 256, (9, 7, 4), dtype=np.uint8), "RGBA").resize((203, 301), 3)
    if kind == "I;16":
        image = Image.fromarray(np.asarray(smooth.convert("L")).astype(np.uint16) * 257)
    else:
        image = smooth.convert(kind) if kind != "P" else smooth.convert("RGB").quantize(9)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(tmp_path / "x.png", exif=exif, **({"transparency": 3} if kind == "P" else {}))
    whole = decode(tmp_path / "x.png", (10, 200, 30))
    for module in (decode_module, flat_module):
        monkeypatch.setattr(module, "LARGE", 3000)
    assert torch.equal(decode(tmp_path / "x.png", (10, 200, 30)), whole)
    height, width = (30, 20) if orientation == 1 else (20, 30)
    small = decode(tmp_path / "x.png", (10, 200, 30), covering=(height, width))
    assert whole.shape[1] > small.shape[1] >= 2 * height
    assert whole.shape[2] > small.shape[2] >= 2 * width
    difference = (fit_to(small, height, width) - fit_to(whole, height, width)).abs()
    assert difference.mean() < 0.06


def test_a_file_of_a_few_bytes_takes_no_memory_without_bounds(tmp_path):
    """64 million pixels of 16 bit in 130 kB: decoding takes two bytes a pixel, and 350 MiB at most besides."""
    Image.new("I;16", (8_000, 8_000)).save(tmp_path / "x.png")
    script = (
        "import resource, sys; from t2x_core.data.decode import decode; "
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024; before = peak(); "
        "image = decode(sys.argv[1], (0, 0, 0), covering=(256, 256)); print(peak() - before, *image.shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "x.png"], capture_output=True, text=True, check=True
    )
    taken, *shape = map(float, done.stdout.split())
    assert shape == [3, 534, 534]
    assert taken < 2 * 8_000**2 / 2**20 + 350
