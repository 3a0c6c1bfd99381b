import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from t2x_core import keyed
from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.errors import UserError
from t2x_core.generation import T2XPipeline
from t2x_core.rendering import to_uint8
from t2x_core.run_facts import trained_shapes
from t2x_core.runs import DATA_FILE
from t2x_core.types import Bucket
from tests.conftest import TINY, TINY_MODEL


@pytest.fixture
def pipeline(tiny):
    module = build_module(tiny)
    torch.manual_seed(0)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return T2XPipeline(tiny, module)


def test_the_image_of_a_seed_does_not_depend_on_the_batch_around_it(pipeline):
    prompts = ["a red circle", "a big blue square at the top", "", "a green ring"]
    together = pipeline(prompts, [7, 8, 9, 10], exact=True).pixels
    for i, prompt in enumerate(prompts):
        assert torch.equal(pipeline(prompt, 7 + i, exact=True).pixels[0], together[i])
    by_three = pipeline(prompts, [7, 8, 9, 10], batch_size=3, exact=True).pixels
    assert torch.equal(by_three[3], pipeline(prompts[3], 10, batch_size=3, exact=True).pixels[0])
    torch.testing.assert_close(by_three, together, atol=1e-4, rtol=1e-4)
    for size in (None, 1, 2, 3, 4):
        levels = to_uint8(pipeline(prompts, [7, 8, 9, 10], batch_size=size).pixels).int()
        assert (levels - to_uint8(together).int()).abs().max() <= 1


def test_seeds_prompts_and_guidance_make_a_difference(pipeline):
    one = pipeline("a red circle", 1).pixels
    assert torch.equal(one, pipeline(["a red circle"], [1]).pixels)
    for other in (
        pipeline("a red circle", 2),
        pipeline("a blue circle", 1),
        pipeline("a red circle", 1, guidance=1.0),
        pipeline("a red circle", 1, steps=5),
        pipeline("a red circle", 1, name="euler", steps=3),
    ):
        assert (one - other.pixels).abs().max() > 1e-3


@pytest.mark.parametrize(("training", "own", "factor"), [(1.0, None, 1), (4.0, None, 4), (4.0, 2.0, 2), (1.0, 3.0, 3)])
def test_the_times_of_a_sampler_are_shifted_as_in_training_or_as_it_says(training, own, factor):
    shifts = [f"diffusion.timesteps.shift={training}", f"diffusion.sampler.shift={'null' if own is None else own}"]
    assembly = load_assembly("quickstart", [*TINY, *shifts])
    pipeline = T2XPipeline(assembly, build_module(assembly))
    asked = []
    pipeline.module.backbone.register_forward_pre_hook(lambda module, inputs: asked.append(inputs[1][0].item()))
    pipeline("a red circle", steps=4, name="euler", guidance=1.0)
    plain = [1.0, 0.75, 0.5, 0.25]
    assert asked == pytest.approx([factor * t / (1 + (factor - 1) * t) for t in plain])
    asked.clear()
    pipeline("a red circle", steps=4, name="euler", guidance=1.0, shift=5.0)
    assert asked == pytest.approx([5 * t / (1 + 4 * t) for t in plain])


def test_the_noise_of_a_sample_is_that_of_its_seed(pipeline):
    """The sampler's way begins at standard normal noise, of its seed alone."""
    begun = []
    pipeline.module.backbone.register_forward_pre_hook(lambda module, inputs: begun.append(inputs[0]))
    pipeline(["a red circle", "a blue square"], [3, 3], guidance=1.0, batch_size=2)
    assert torch.equal(begun[0][0], begun[0][1])
    assert torch.equal(begun[0][:1], keyed.normal([keyed.key(3, "sample")], (3, 1, 16, 16)))


def test_an_integer_seed_counts_up(pipeline):
    assert pipeline(["a", "b", "c"], 5).seeds == (5, 6, 7)
    with pytest.raises(UserError, match="3 prompts but 2 seeds"):
        pipeline(["a", "b", "c"], [1, 2])


def test_images_are_what_the_pixels_say(pipeline):
    samples = pipeline("a red circle", 1)
    (image,) = samples.images()
    assert image.size == (16, 16)
    red = (samples.pixels[0, 0, 0, 3, 5].item() + 1) * 127.5
    assert image.getpixel((5, 3))[0] == pytest.approx(red, abs=0.51)


def test_save_pretrained_and_back(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "model")
    again = T2XPipeline.from_pretrained(tmp_path / "model", device="cpu")
    assert torch.equal(again("a red circle", 3).pixels, pipeline("a red circle", 3).pixels)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is no run: it has no recipe\.yaml"):
        T2XPipeline.from_pretrained(tmp_path)


def test_weights_of_another_model_are_refused(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    wider = load_assembly("quickstart", [*TINY, "backbone.width=64"])
    T2XPipeline(wider, build_module(wider)).save_pretrained(tmp_path / "wider")
    (tmp_path / "wider" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="another model"):
        T2XPipeline.from_pretrained(tmp_path)


def test_weights_with_the_channels_of_all_tasks_in_one_are_refused(tmp_path):
    """As t2x wrote them before each band of channels had a weight of its own."""
    assembly = load_assembly("joint/quickstart", [*TINY_MODEL, "backbone.patch_size=4"])
    T2XPipeline(assembly, build_module(assembly)).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "backbone.patch_embedding"
    weights[f"{name}.weight"] = torch.cat([weights[f"{name}.weight"], weights.pop(f"{name}.wider.0.weight")], 1)
    save_file(weights, tmp_path / "model.safetensors")
    message = f"an earlier t2x, which kept {name}.wider.0.weight in one weight with the channels before it"
    with pytest.raises(UserError, match=message):
        T2XPipeline.from_pretrained(tmp_path)


def test_the_default_shape_is_one_that_was_trained(tiny, tmp_path, caplog):
    trained = {"text-to-image": [Bucket(1, 16, 24, 3), Bucket(1, 24, 16, 9), Bucket(4, 16, 16, 99)]}
    pipeline = T2XPipeline(tiny, build_module(tiny), trained)
    assert pipeline("a red circle").pixels.shape[-2:] == (24, 16)
    assert "16×16 was not trained: samples are 24×16" in caplog.text
    caplog.clear()
    assert pipeline("a red circle", sampling={"height": 16}).pixels.shape[-2:] == (16, 16)
    assert [record.message for record in caplog.records] == [
        "16×16 was not trained, and samples may show it: the commonest trained shape is 24×16"
    ]
    caplog.clear()
    assert pipeline("a red circle", sampling={"height": 16, "width": 24}).pixels.shape[-2:] == (16, 24)
    pipeline.save_pretrained(tmp_path)
    assert trained_shapes(tmp_path) == trained
    assert not caplog.text
    square = T2XPipeline(tiny, build_module(tiny), {"text-to-image": [Bucket(1, 24, 16, 9), Bucket(1, 16, 16, 1)]})
    assert square("a red circle").pixels.shape[-2:] == (16, 16)
    assert not caplog.text


def test_a_run_says_which_shapes_it_trained(tiny, tmp_path):
    data = build_data(tiny, build_module(tiny))
    data.check()
    (tmp_path / DATA_FILE).write_text(json.dumps(data.fingerprint()))
    count = len(data.modules["text-to-image"].train_source())
    assert trained_shapes(tmp_path) == {"text-to-image": [Bucket(1, 16, 16, count)]}
    for damaged in ("{", "[]", '{"text-to-image": {}}', '{"text-to-image": {"train": {"buckets": [["a"]]}}}', ""):
        (tmp_path / DATA_FILE).write_text(damaged)
        assert trained_shapes(tmp_path) == {}
    assert trained_shapes(tmp_path / "nothing") == {}


def test_what_else_is_asked_for(pipeline):
    samples = pipeline("a red circle", 1, sampling={"height": 24, "width": 8})
    assert samples.pixels.shape[-2:] == (24, 8)
    assert pipeline("a red circle", 1).pixels.shape[-2:] == (16, 16)
    with pytest.raises(UserError, match="9 pixels do not divide into tokens of 4"):
        pipeline("a red circle", 1, sampling={"height": 9})
    with pytest.raises(UserError, match="heigth") as caught:
        pipeline("a red circle", 1, sampling={"heigth": 24})
    assert caught.value.where == "command line"
    assert "height" in caught.value.hint
