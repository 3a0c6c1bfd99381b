"""Training reads cached and uncached alike: the same losses, and nothing is encoded that is there."""

from __future__ import annotations

import pytest
import torch

from t2x_core.cli.main import main
from t2x_core.frozen import Codec, LaterEncoder
from t2x_core.training.flops import flops_by_bucket
from tests.cache.recipes import IMAGE, MULTIVIEW, VIDEO, losses, opened, write_recipe

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
UNCACHED = ["cache.folder=null"]


def fill(recipe, *options: str) -> None:
    assert main(["cache", str(recipe), *options]) == 0


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """How many samples the codec was given, call by call."""
    seen: list[int] = []
    encode = Codec.encode

    def noting(self, pixels, separate):
        seen.append(len(pixels))
        return encode(self, pixels, separate)

    monkeypatch.setattr(Codec, "encode", noting)
    return seen


@pytest.mark.parametrize("task", [IMAGE, VIDEO, MULTIVIEW])
def test_losses_are_the_same_with_and_without_the_cache(task, tmp_path, encoded, capsys):
    recipe = write_recipe(tmp_path, task)
    without = losses(recipe, UNCACHED)
    empty = losses(recipe)  # nothing is there yet
    fill(recipe, "trainer.max_steps=4")
    encoded.clear()
    cached = losses(recipe)
    assert cached == pytest.approx(without, abs=1e-5)
    assert empty == pytest.approx(without, abs=1e-5)
    assert not encoded
    assert len(set(without)) == 4
    module, data = opened(recipe, ["trainer.max_steps=4"])
    for batch in (*data.train_loader(0, 1, lambda: 0), *data.val_loader(data.val_batches(0, 1))):
        assert batch.pixels is None
        with torch.no_grad():
            module.training_step(batch, 0)
    assert not module.cache.missed
    (t5,) = module.frozen_encoders.values()
    assert isinstance(t5, LaterEncoder)
    assert not t5.loaded


def test_what_is_missing_is_encoded_alone_and_counted(tmp_path, encoded):
    recipe = write_recipe(tmp_path, IMAGE, "{folder: cache, variants: 2, identity: bytes}")  # the same share each time
    without = losses(recipe, UNCACHED)
    fill(recipe, "--part", "1/2")
    encoded.clear()
    assert losses(recipe) == pytest.approx(without, abs=1e-5)
    assert any(0 < count < 4 for count in encoded)
    module, data = opened(recipe)
    for batch, _ in zip(data.train_loader(0, 1, lambda: 0), range(4), strict=False):
        module.training_step(batch, 0)
    assert module.cache.missed["latents"] == sum(encoded) / 2
    assert module.cache.missed["t5"] > 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_less_precise_latents_are_the_same_whether_they_are_there_or_not(dtype, tmp_path):
    recipe = write_recipe(tmp_path, IMAGE)
    set_dtype = [f"cache.dtype={dtype}"]
    exact, missing = losses(recipe), losses(recipe, set_dtype)
    fill(recipe, *set_dtype)
    assert losses(recipe, set_dtype) == pytest.approx(missing, abs=1e-5)
    assert missing != exact
    assert missing == pytest.approx(exact, abs=0.05)


def test_no_encoder_is_loaded_to_count_operations_of_a_caption_that_the_run_never_reads(tmp_path):
    recipe = write_recipe(tmp_path, VIDEO)
    fill(recipe, "trainer.max_steps=2")
    module, data = opened(recipe)
    encoder = module.frozen_encoders["t5"]
    assert isinstance(encoder, LaterEncoder)
    assert flops_by_bucket(module, data)
    assert not encoder.loaded


def test_other_weights_of_the_network_do_not_depend_on_what_is_loaded(tmp_path):
    recipe = write_recipe(tmp_path, IMAGE)
    before = opened(recipe)[0].stored()
    after = opened(recipe)[0]
    assert isinstance(after.frozen_encoders["t5"], LaterEncoder)
    assert all(torch.equal(tensor, after.stored()[name]) for name, tensor in before.items())


def test_random_crops_need_a_number_of_versions(tmp_path, capsys):
    recipe = write_recipe(tmp_path, IMAGE, "{folder: cache}")
    assert main(["cache", str(recipe)]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"t2x: {recipe}:7: cache.variants: samples of text-to-image are cropped, flipped")
    assert line.endswith("write variants: 4, say, or make them the same each time")


def test_all_captions_are_chosen_although_there_is_one_version(tmp_path):
    _, data = opened(write_recipe(tmp_path, IMAGE, "{folder: cache, variants: 1}"))
    captions = {c for b, _ in zip(data.train_loader(0, 1, lambda: 0), range(20), strict=False) for c in b.captions}
    assert "the small square on the left" in captions
    assert len(captions) > 8
