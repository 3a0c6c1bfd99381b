from __future__ import annotations

import io

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from t2x_core.rendering import LINES, _wrapped, caption_grid, encode, save, save_all
from t2x_core.types import RenderedSamples

GREY = torch.zeros(3, 3, 1, 32, 32)


def test_small_images_are_enlarged_and_stand_where_they_should():
    grid = caption_grid(torch.stack([torch.full((3, 1, 32, 32), v) for v in (-1.0, 1.0)]), ["a", "b"]).frames[0]
    assert (grid[6 : 6 + 128, 6 : 6 + 128] == 0).all()
    assert (grid[6 : 6 + 128, 140 : 140 + 128] == 255).all()
    assert (grid[6 + 128 :] < 100).any()  # captions


def test_a_row_is_as_high_as_its_longest_caption():
    short = caption_grid(GREY, ["a"] * 3, columns=1).frames.shape[1]
    long = caption_grid(GREY, ["a", "word " * 12, "a"], columns=1).frames.shape[1]
    everywhere = caption_grid(GREY, ["word " * 12] * 3, columns=1).frames.shape[1]
    assert long - short == (everywhere - short) // 3 > 0


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("supercalifragilistic" * 9, True),
        ("画" * 200, True),
        ("a b " * 100, True),
        ("long-winded " * 5, False),
        ("", False),
    ],
    ids=["a word", "no spaces", "words", "fits", "none"],
)
def test_no_line_is_wider_than_its_image(text, cut):
    font = ImageFont.load_default(12)
    lines = _wrapped(text, 128, font)
    assert 1 <= len(lines) <= LINES
    assert all(font.getlength(line) <= 128 for line in lines)
    assert lines[-1].endswith("…") == cut


@pytest.mark.parametrize("text", ["Größe", "красный круг", "一个红色的圆圈", "مرحبا", "🎉", "\x00 \u200b"])
def test_captions_of_any_script_are_drawn(text):
    drawn = caption_grid(GREY, [text, "", ""], columns=1).frames[0]
    assert (drawn[6 + 128 : 6 + 128 + 16, :134] < 128).any()


def test_letters_grow_with_the_image():
    def ink(size: int) -> int:
        grid = caption_grid(torch.ones(1, 3, 1, size, size), ["circle"]).frames[0, size + 6 :, :, 0]
        return int((grid < 128).sum())

    assert ink(512) > 3 * ink(128)


def test_an_animation_becomes_a_gif(tmp_path):
    moving = torch.linspace(-1, 1, 3).view(1, 1, 3, 1, 1).expand(1, 3, 3, 16, 16)
    rendered = caption_grid(moving, ["fading in"])
    assert save(rendered, tmp_path / "x.png") == tmp_path / "x.gif"
    with Image.open(io.BytesIO(encode(rendered))) as image:
        assert image.format == "GIF"
        assert image.n_frames == 3


def test_an_animation_becomes_a_video_and_a_still_image_stays_one(tmp_path):
    frames = torch.zeros(6, 33, 35, 3, dtype=torch.uint8)
    for i in range(6):
        frames[i, :, 5 * i : 5 * i + 5] = torch.tensor([230, 20, 20], dtype=torch.uint8)
    still = RenderedSamples(frames, 4.0, still=frames[3])
    assert [path.name for path in save_all(still, tmp_path / "x_1.5")] == ["x_1.5.png", "x_1.5.gif", "x_1.5.mp4"]
    assert [path.suffix for path in save_all(RenderedSamples(frames), tmp_path / "y")] == [".gif", ".mp4"]
    assert [path.suffix for path in save_all(RenderedSamples(frames[:1]), tmp_path / "z")] == [".png"]
    with av.open(str(tmp_path / "x_1.5.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate, stream.width, stream.height) == ("h264", 4, 36, 34)
        shown = [frame.to_ndarray(format="rgb24") for frame in video.decode(stream)]
    assert len(shown) == 6
    for i, frame in enumerate(shown):
        assert frame[10, 5 * i + 2, 0] > 150  # the bar has moved there
        assert frame[10, (5 * i + 17) % 30, 0] < 80
    assert np.array_equal(np.array(Image.open(tmp_path / "x_1.5.png")), frames[3].numpy())
