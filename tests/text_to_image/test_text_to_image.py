"""The plugin, and its shapes data."""

from __future__ import annotations

import pytest
import torch

from t2x_core.conditioning import TextConditioning
from t2x_core.interfaces import DataContext, MeanScore, ModelContext
from t2x_core.losses import LOSSES
from t2x_core.types import Batch, LatentShape, Noised, SampleKey, TextDims, TextTokens
from t2x_plugins.shapes.captions import parse
from t2x_plugins.shapes.checker import check
from t2x_plugins.shapes.scene import combinations
from t2x_plugins.text_to_image.data import Shapes, ShapesData
from t2x_plugins.text_to_image.image_config import ShapesConfig, TextToImageConfig
from t2x_plugins.text_to_image.plugin import TextToImage


@pytest.fixture
def data():
    return ShapesData(ShapesConfig(val_count=200), DataContext(seed=0, pixel_multiple=4))


def combination(caption):
    (thing,) = parse(caption).objects
    return thing.shape, thing.colour, thing.size, thing.place


def test_a_sample_follows_from_its_key(data):
    source = data.train_source()
    key = SampleKey("text-to-image", 0, 123, 4, 5)
    one, same = source[key], source[key]
    assert torch.equal(one.pixels, same.pixels)
    assert one.caption == same.caption
    assert one.pixels.shape == (3, 1, 32, 32)
    assert one.pixels.min() >= -1
    assert one.pixels.max() <= 1
    told = {source[key._replace(step=step)].caption for step in range(10)}
    assert len(told) > 3  # the same image in other words
    assert torch.equal(source[key._replace(step=9)].pixels, one.pixels)


def test_captions_say_what_the_images_show(data):
    for source in (data.train_source(), data.val_source()):
        for i in range(100):
            sample = source[SampleKey("text-to-image", 0, i, 0, i)]
            image = ((sample.pixels[:, 0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
            assert check(image, parse(sample.caption))["all"], sample.caption


def test_images_with_fixed_wordings_have_no_other_captions(data):
    config = ShapesConfig(wordings=3)
    source = ShapesData(config, data.context).train_source()
    for i in range(20):
        key = SampleKey("t", 0, i, 0, 0)
        told = {source.vary(key._replace(step=step)).caption for step in range(60)}
        assert told == set(source.captions(key))
        assert len(told) > 1
        image = ((source[key].pixels[:, 0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        assert all(check(image, parse(caption))["all"] for caption in told)
    assert data.train_source().captions(key) is None
    assert ShapesData(config, data.context).val_source().captions(key) is None


def test_training_never_shows_a_held_out_combination(data):
    held_out = set(combinations("held_out"))
    trained = set()
    source = ShapesData(ShapesConfig(two_objects=0, omit=0), data.context).train_source()
    for i in range(3000):
        trained.add(combination(source[SampleKey("t", 0, i, 0, i)].caption))
    assert len(trained) > 800
    assert not trained & held_out
    asked = {combination(caption) for caption in data.val_conditions(300).captions}
    assert asked == held_out


def test_the_conditions_to_watch_are_always_the_same(data):
    assert data.val_conditions(20).captions == data.val_conditions(30).captions[:20]


def test_score_of_true_images_is_one_and_of_wrong_ones_low(data):
    world, source = Shapes(ShapesConfig()), data.val_source()
    batch = source.collate([source[SampleKey("t", 0, i, 0, i)] for i in range(60)])
    right, wrong = MeanScore(world.score), MeanScore(world.score)
    for part in (range(20), range(20, 60)):
        right.update(batch.pixels[list(part)], batch.select(list(part)))
    wrong.update(batch.pixels.roll(7, 0), batch)
    assert right.compute()["all"] == 1
    assert wrong.compute()["all"] < 0.1
    none = MeanScore(world.score)
    none.update(batch.pixels[:1], Batch("t", ("a dog in the rain",)))
    assert none.compute() == {}


def test_render_shows_each_sample(data):
    source = data.val_source()
    batch = source.collate([source[SampleKey("t", 0, i, 0, i)] for i in range(5)])
    rendered = TextToImage(TextToImageConfig(data={"shapes": ShapesConfig()})).render(batch.pixels, batch)
    assert rendered.frames.shape[0] == 1
    assert rendered.frames.dtype == torch.uint8
    assert rendered.frames.shape[2] > 3 * 128  # 3 columns


def test_the_losses_are_what_they_say():
    clean, noise, t = torch.randn(3, 3, 1, 4, 4), torch.randn(3, 3, 1, 4, 4), torch.tensor([0.1, 0.5, 1.0])
    weight = t.view(-1, 1, 1, 1, 1)
    noised = Noised((1 - weight) * clean + weight * noise, clean, noise, t)
    velocity = torch.randn(3, 3, 1, 4, 4)
    batch = Batch("t", ("", "", ""))
    error = (velocity - (noise - clean)).square().mean((1, 2, 3, 4))
    torch.testing.assert_close(LOSSES["velocity"](velocity, noised, batch), error)
    implied = noised.latents - weight * velocity
    torch.testing.assert_close(
        LOSSES["clean"](velocity, noised, batch), (implied - clean).square().mean((1, 2, 3, 4)), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("pooled", [False, True])
def test_the_null_condition_has_the_same_shapes_and_one_token(pooled):
    adapter = TextConditioning(ModelContext({"x": TextDims(8)}, 3), pooled=pooled)
    text = TextTokens(torch.randn(2, 3, 8), torch.tensor([[True, True, False], [True, False, False]]))
    conditioning = adapter(Batch("t", ("a b", "a")), {"x": text}, LatentShape(3, 1, 8, 8))
    null = adapter.null(conditioning)
    assert null.text.shape == conditioning.text.shape
    assert null.text_mask.sum(1).tolist() == [1, 1]
    assert (null.vector is None) == (conditioning.vector is None) == (not pooled)
    if pooled:
        torch.testing.assert_close(conditioning.vector[1], conditioning.text[1, 0])
        torch.testing.assert_close(null.vector[0], adapter.no_caption)


def test_the_default_settings_are_valid():
    assert TextToImage(TextToImageConfig(data={"shapes": ShapesConfig()})).bucket().height == 32
