"""The pipeline of diffusers: its images are those of T2XPipeline, of one noise; it opens without Lightning."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from t2x_core import keyed
from t2x_core.assembly import build_module, load_assembly
from t2x_core.errors import UserError
from t2x_core.generation import T2XPipeline
from t2x_core.to_diffusers import diffusers_pipeline, export_diffusers
from tests.conftest import TINY, TINY_LATENT
from tests.encoders.tiny_models import save_text_encoder, save_vae

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
PROMPTS = ["a large red circle", "the small green square on the left of a circle"]


def model(tmp_path: Path, *settings: str) -> T2XPipeline:
    """A tiny random model with a VAE of diffusers and a T5 of transformers."""
    save_vae(tmp_path / "here/vae")
    save_text_encoder(tmp_path / "here/t5")
    pooled = "mean" if "mean" in settings else "auto"
    weights = f"weights: {{folder: {tmp_path / 'here/t5'}}}"
    encoder = f"{{name: transformers, max_tokens: 12, pooled: {pooled}, template: 'a photo of {{}}', {weights}}}"
    assembly = load_assembly(
        "text_to_image/latent_quickstart",
        [
            *TINY_LATENT,
            f"codec={{name: autoencoder, weights: {{folder: {tmp_path / 'here/vae'}, package: null}}}}",
            f"text_encoders={{minilm: null, t5: {encoder}}}",
            *(setting for setting in settings if "=" in setting),
        ],
    )
    torch.manual_seed(0)
    module = build_module(assembly)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return T2XPipeline(assembly, module)


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("mean", "diffusion.prediction=velocity", "diffusion.sampler.shift=3"),
        ("tasks.text-to-image.conditioning.null=empty", "tasks.text-to-image.conditioning.pooled=false"),
    ],
    ids=["clean", "velocity", "empty"],
)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_its_images_are_those_of_t2x(settings: tuple[str, ...], guidance: float, tmp_path: Path) -> None:
    ours = model(tmp_path, *settings)
    export_diffusers(ours.assembly, ours.module, tmp_path / "given")
    from t2x_core.diffusers_pipeline import PTDiTPipeline

    theirs = PTDiTPipeline.from_pretrained(tmp_path / "given")
    theirs.set_progress_bar_config(disable=True)
    assert type(theirs.vae) is diffusers.AutoencoderKL
    assert type(theirs.scheduler) is diffusers.FlowMatchEulerDiscreteScheduler
    expected = ours(PROMPTS, [3, 4], name="euler", steps=5, guidance=guidance).pixels[:, :, 0]
    noise = keyed.normal([keyed.key(seed, "sample") for seed in (3, 4)], (4, 1, 8, 8))[:, :, 0]
    options = {"num_inference_steps": 5, "guidance_scale": guidance, "output_type": "pt"}
    found = theirs(PROMPTS, latents=noise, **options).images
    assert found.shape == (2, 3, 16, 16)
    assert expected.std() > 0.05
    torch.testing.assert_close(2 * found - 1, expected, atol=1e-4, rtol=0)
    if guidance != 1:  # a negative prompt takes the place of no caption
        other = theirs(PROMPTS, negative_prompt="a blue square", latents=noise, **options).images
        assert (other - found).abs().max() > 1e-3
    image = theirs("a red circle", num_inference_steps=2, height=24, width=8).images[0]
    assert image.size == (8, 24)
    with pytest.raises(ValueError, match="multiples of 4, not 10×16"):
        theirs("a red circle", height=10)


def test_the_folder_names_no_place_and_needs_no_lightning(tmp_path: Path) -> None:
    ours = model(tmp_path)
    export_diffusers(ours.assembly, ours.module, tmp_path / "given", license="mit")
    for file in (tmp_path / "given").rglob("*"):
        assert file.is_dir() or str(tmp_path).encode() not in file.read_bytes()
    index = json.loads((tmp_path / "given/model_index.json").read_text())
    assert index["transformer"] == ["t2x_core.diffusers_pipeline", "PTDiTTransformer"]
    (tmp_path / "here").rename(tmp_path / "gone")
    code = (
        "import sys; from t2x_core.diffusers_pipeline import PTDiTPipeline\n"
        f"PTDiTPipeline.from_pretrained({str(tmp_path / 'given')!r})('a circle', num_inference_steps=1)\n"
        "print([n for n in ('lightning', 'pluggy', 't2x_core.module', 't2x_plugins') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("codec.weights.folder", "the codec"),
        ("text_encoders.t5.layer=-2", "a text encoder with its own pooled vector, layer, chat or skip_tokens"),
        ("diffusion.path=vp", "diffusion.path vp"),
    ],
)
def test_what_the_pipeline_has_not_is_named(change: str, message: str, tmp_path: Path) -> None:
    if "=" not in change:
        save_vae(tmp_path / "tiny", "AutoencoderTiny")
        change = f"codec.weights.folder={tmp_path / 'tiny'}"
    ours = model(tmp_path, change)
    with pytest.raises(UserError, match=f"does not have what this model has: .*{message}"):
        diffusers_pipeline(ours.assembly, ours.module)


def test_the_quickstart_has_no_vae() -> None:
    assembly = load_assembly("quickstart", TINY)
    with pytest.raises(UserError, match="the codec identity, and not an AutoencoderKL"):
        diffusers_pipeline(assembly, build_module(assembly))
