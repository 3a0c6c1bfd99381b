"""The plugin, and its moving shapes."""

from __future__ import annotations

import pytest
import torch

from t2x_core.assembly import load_assembly
from t2x_core.errors import UserError
from t2x_core.interfaces import DataContext, ModelContext
from t2x_core.types import LatentShape, SampleKey, TextDims
from t2x_plugins.captioned.captioned_config import ConditioningConfig
from t2x_plugins.shapes.motion import combinations
from t2x_plugins.shapes.motion_captions import parse
from t2x_plugins.text_to_video.conditioning import VideoConditioning, embed_rate
from t2x_plugins.text_to_video.data import MovingShapes, MovingShapesData
from t2x_plugins.text_to_video.plugin import TextToVideo
from t2x_plugins.text_to_video.video_config import MovingShapesConfig, SamplingConfig, TextToVideoConfig
from tests.encoders.test_encoders import ByteWords, ByteWordsConfig

NAME = "text-to-video"


def config(**settings: object) -> TextToVideoConfig:
    return TextToVideoConfig(data={"moving-shapes": MovingShapesConfig(backgrounds=("black",), **settings)})


def task(settings: TextToVideoConfig) -> TextToVideo:
    made = TextToVideo(settings)
    made.name, made.source = NAME, MovingShapes(settings.source)
    return made


def data(**settings: object) -> MovingShapesData:
    made = task(config(**settings)).data_module(DataContext(seed=0, pixel_multiple=8))
    assert isinstance(made, MovingShapesData)
    return made


def key(id: int, bucket: int = 0, step: int = 0) -> SampleKey:
    return SampleKey("text-to-video", bucket, id, step, 0)


def test_training_clips_are_what_their_captions_say_and_never_held_out() -> None:
    source = data().train_source()
    batch = source.collate([source[key(id)] for id in range(24)])
    assert batch.pixels.shape == (24, 3, 8, 32, 32)
    score = task(config()).score(batch.pixels, batch)
    assert score["all"].mean() == 1
    assert set(batch.extra["fps"].tolist()) == {4, 6}
    for caption in batch.captions:
        words = parse(caption)
        assert (words.shape, words.colour, words.motion) in combinations("train")
    again = source[key(3, step=1)]
    assert torch.equal(again.pixels, batch.pixels[3])


def test_validation_clips_and_conditions_are_held_out() -> None:
    module = data()
    held_out = combinations("held_out")
    for caption in (*module.val_conditions(8).captions, *(module.val_source()[key(id)].caption for id in range(8))):
        words = parse(caption)
        assert (words.shape, words.colour, words.motion) in held_out
    assert module.val_conditions(8).captions == data().val_conditions(8).captions


def test_images_are_clips_of_one_frame_in_a_bucket_of_their_own() -> None:
    source = data(images=0.25, count=300).train_source()
    clips, images = source.buckets()
    assert (clips.frames, clips.count, images.frames, images.count) == (8, 300, 1, 100)
    sample = source[key(5, bucket=1)]
    assert sample.pixels.shape == (3, 1, 32, 32)
    assert len(sample.caption.split()) == 2


def test_what_else_is_asked_for() -> None:
    asked = TextToVideoConfig(data=config().data, sampling=SamplingConfig(frames=4, fps=6, height=16))
    bucket = task(asked).bucket()
    assert (bucket.frames, bucket.height, bucket.width) == (4, 16, 32)
    assert task(asked).conditions(["a", "b"]).extra["fps"].tolist() == [6, 6]
    assert task(config()).conditions(["a"]).extra["fps"].tolist() == [4]


def test_frame_rates_are_told_and_stay_without_the_caption() -> None:
    encoder = ByteWords(ByteWordsConfig(dim=16, depth=0))
    adapter = VideoConditioning(ModelContext({"bytes": TextDims(16)}, 3), ConditioningConfig())
    batch = data().val_conditions(4)
    told = adapter(batch, {"bytes": encoder(encoder.tokenize(batch.captions))}, LatentShape(3, 8, 32, 32))
    assert told.frames.shape == (4, 1, adapter.dims.frames)
    assert torch.equal(adapter.null(told).frames, told.frames)
    assert not torch.equal(adapter.null(told).text, told.text)
    near, far = (embed_rate(torch.tensor(rates), 32) for rates in ([24.0, 25.0], [6.0, 24.0]))
    assert (near[0] - near[1]).norm() < 0.2 * (far[0] - far[1]).norm()


def test_mistakes() -> None:
    with pytest.raises(UserError, match=r"24 frames at 4 a second are longer than 1\.8 seconds") as caught:
        MovingShapesConfig(frames=24)
    assert caught.value.key == "fps"


def test_samples_are_shown_moving_at_their_frame_rate() -> None:
    module = data(fps=(8.0,))
    source = module.val_source()
    batch = source.collate([source[key(id)] for id in range(4)])
    rendered = task(config()).render(batch.pixels, batch)
    assert len(rendered.frames) == 8
    assert rendered.fps == 8


@pytest.mark.parametrize("recipe", ["quickstart", "text_to_video/quickstart"])
@pytest.mark.parametrize("side", ["height", "width"])
def test_a_side_that_is_asked_for_must_divide_into_tokens(recipe: str, side: str) -> None:
    task = "text-to-video" if "video" in recipe else "text-to-image"
    key = f"tasks.{task}.sampling.{side}"
    with pytest.raises(UserError, match=f"command line: {key}: 25 pixels do not divide into tokens of 4"):
        load_assembly(recipe, [f"{key}=25"])
