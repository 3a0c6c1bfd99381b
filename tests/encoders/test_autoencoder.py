"""The VAE codec against each class of diffusers, called directly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from t2x_core.encoders.autoencoder import Autoencoder
from t2x_core.encoders.encoder_config import AutoencoderConfig
from t2x_core.encoders.weights_config import WeightsConfig
from t2x_core.errors import UserError
from t2x_core.frozen import Codec
from t2x_core.types import Bucket
from tests.encoders.tiny_models import VAES, save_vae

pytest.importorskip("diffusers")


def codec(folder: Path, **options: Any) -> Autoencoder:
    return Autoencoder(AutoencoderConfig(weights=WeightsConfig(folder=folder), **options))


def expected(vae: Any, name: str, x: torch.Tensor) -> torch.Tensor:
    """Latents as the pipelines of diffusers scale them, written out for each class."""
    name = type(vae).__name__
    if name == "AutoencoderTiny":
        return vae.encode(x).latents
    if name == "AutoencoderDC":
        return vae.encode(x).latent * 0.4
    z = vae.encode(x).latent_dist.mean
    c = vae.config
    if name == "AutoencoderKLFlux2":
        b, n, h, w = z.shape
        z = z.view(b, n, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * n, h // 2, w // 2)
        std = (vae.bn.running_var + c.batch_norm_eps) ** 0.5
        return (z - vae.bn.running_mean[:, None, None]) / std[:, None, None]
    if name == "AutoencoderKLWan":
        mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (c.latents_mean, c.latents_std))
        return (z - mean) / std
    if name == "AutoencoderKLLTXVideo":
        return (z - vae.latents_mean.view(1, -1, 1, 1, 1)) * c.scaling_factor / vae.latents_std.view(1, -1, 1, 1, 1)
    if c.get("latents_mean") is not None:
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (c.latents_mean, c.latents_std))
        return (z - mean) * c.scaling_factor / std
    return (z - (c.get("shift_factor") or 0)) * c.scaling_factor


@pytest.mark.parametrize("name", VAES)
@torch.no_grad()
def test_latents_and_pixels_are_those_of_the_library(name: str, tmp_path: Path) -> None:
    made = codec(save_vae(tmp_path, name), chunk=2)
    vae = made.vae
    wrapped = Codec(made)
    frames = 1 + 2 * made.frame_factor if made.kind.video else 3
    x = torch.rand(2, 3, frames, 64, 64) * 2 - 1
    latents = wrapped.encode(x, separate=False)  # checks the promised shape
    if made.kind.video:
        by_library = torch.cat([expected(vae, name, one) for one in x.split(1)])
    else:
        by_library = torch.stack([expected(vae, name, x[:, :, f]) for f in range(frames)], 2)
    torch.testing.assert_close(latents, by_library, rtol=1e-4, atol=1e-4)
    assert torch.equal(latents, wrapped.encode(x, separate=False))
    pixels = wrapped.decode(latents, separate=False)
    assert pixels.shape == x.shape
    if name == "AutoencoderKL":
        first = vae.decode(latents[:, :, 0] / 0.3 + 0.1).sample
        torch.testing.assert_close(pixels[:, :, 0], first, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", VAES)
@torch.no_grad()
def test_decoding_undoes_the_scaling(name: str, tmp_path: Path) -> None:
    """What the VAE's own decoder gets is what its own encoder gave."""
    made = codec(save_vae(tmp_path, name))
    seen: list[torch.Tensor] = []
    made._decode = lambda z: seen.append(z) or z  # type: ignore[method-assign, func-returns-value, assignment]
    x = torch.rand(1, 3, 1, 64, 64) * 2 - 1
    made.decode(made.encode(x))
    raw = made._encode(x if made.kind.video else x[:, :, 0])
    torch.testing.assert_close(seen[0], raw, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", VAES)
def test_settings_know_the_factors_without_the_weights(name: str, tmp_path: Path) -> None:
    made = codec(save_vae(tmp_path, name))
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    config = AutoencoderConfig(weights=WeightsConfig(folder=tmp_path))
    assert (config.spatial_factor, config.frame_factor) == (made.spatial_factor, made.frame_factor)


def test_views_are_coded_as_images(tmp_path: Path) -> None:
    made = Codec(codec(save_vae(tmp_path, "AutoencoderKLWan")))
    x = torch.rand(1, 3, 6, 32, 32) * 2 - 1
    together = made.encode(x, separate=True)
    assert together.shape == (1, 16, 6, 4, 4)
    torch.testing.assert_close(together[:, :, 4:5], made.encode(x[:, :, 4:5], separate=True), rtol=1e-4, atol=1e-4)


def test_half_precision_and_tiling(tmp_path: Path) -> None:
    folder = save_vae(tmp_path)
    x = torch.rand(1, 3, 1, 64, 64) * 2 - 1
    full, half = (Codec(codec(folder, dtype=dtype, tiling=True)) for dtype in ("float32", "bfloat16"))
    assert half.dtype == torch.bfloat16
    latents = half.encode(x, separate=False)
    assert latents.dtype == torch.float32
    torch.testing.assert_close(latents, full.encode(x, separate=False), rtol=0.1, atol=0.1)


class TestMistakes:
    def test_pickled_weights_are_refused(self, tmp_path: Path) -> None:
        import diffusers

        save_vae(tmp_path)
        diffusers.AutoencoderKL.from_pretrained(tmp_path).save_pretrained(tmp_path, safe_serialization=False)
        for file in tmp_path.glob("*.safetensors"):
            file.unlink()
        with pytest.raises(UserError, match="cannot be loaded"):
            codec(tmp_path)

    def test_a_class_that_is_no_vae(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
        with pytest.raises(UserError, match="UNet2DModel, which cannot be a codec") as caught:
            AutoencoderConfig(weights=WeightsConfig(folder=tmp_path))
        assert caught.value.key == "weights"

    def test_a_folder_of_a_pipeline(self, tmp_path: Path) -> None:
        save_vae(tmp_path / "vae")
        with pytest.raises(UserError, match="subfolder: vae"):
            WeightsConfig(folder=tmp_path).local()
        assert WeightsConfig(folder=tmp_path, subfolder="vae").local() == tmp_path / "vae"

    def test_a_damaged_config(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(UserError, match="cannot be read"):
            AutoencoderConfig(weights=WeightsConfig(folder=tmp_path))

    def test_damaged_weights(self, tmp_path: Path) -> None:
        file = next(save_vae(tmp_path).glob("*.safetensors"))
        file.write_bytes(file.read_bytes()[:1000])
        with pytest.raises(UserError, match="cannot be loaded"):
            codec(tmp_path)

    @pytest.mark.parametrize("places", [{}, {"hub": "a/b", "package": "c"}, {"package": "c", "revision": "main"}])
    def test_one_place(self, places: dict[str, Any]) -> None:
        with pytest.raises(UserError):
            WeightsConfig(**places)

    def test_a_package_that_is_not_there(self) -> None:
        with pytest.raises(UserError, match="no installed package"):
            WeightsConfig(package="no_such_package/model").local()

    def test_a_hub_without_a_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub.constants

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        weights = WeightsConfig(hub="nobody/no-such-model")
        assert weights.config() is None
        with pytest.raises(UserError, match="cannot be fetched") as caught:
            Autoencoder(AutoencoderConfig(weights=weights))
        assert caught.value.key == "weights.hub"


def test_the_small_vae_is_trained_and_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    from t2x_plugins.shapes import train_vae

    (tmp_path / "images").mkdir()
    Image.new("RGBA", (40, 40), (200, 30, 30, 128)).save(tmp_path / "images" / "a.png")
    options = ["--images", str(tmp_path / "images"), "--steps", "2"]
    monkeypatch.setattr("sys.argv", ["train_vae", str(tmp_path / "vae"), *options])
    train_vae.main()
    made = Codec(codec(tmp_path / "vae"))
    assert made.latent_shape(Bucket(1, 64, 64), separate=False) == (16, 1, 16, 16)
    latents = made.encode(train_vae.Images(None, seed=1).batch(64).unsqueeze(2), separate=False)
    assert latents.mean().abs() < 0.3
    assert 0.7 < latents.std() < 1.4


@torch.no_grad()
def test_a_vae_that_gets_more_channels_computes_the_same_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t2x_plugins.shapes import train_vae

    with monkeypatch.context() as patch:
        patch.setattr(train_vae, "LATENT_CHANNELS", 4)
        few = train_vae.build_vae().eval()
    few.save_pretrained(tmp_path)
    many = train_vae.build_vae().eval()
    train_vae.grow(many, tmp_path)
    x = train_vae.Images(None, seed=1).batch(2)
    old, new = few.encode(x).latent_dist, many.encode(x).latent_dist
    torch.testing.assert_close(new.mean[:, :4], old.mean)
    torch.testing.assert_close(new.logvar[:, :4], old.logvar)
    assert new.mean[:, 4:].std() > 0.01  # the further ones are not dead
    torch.testing.assert_close(many.decode(new.mean).sample, few.decode(old.mean).sample)


class TestPreview:
    """A small VAE of the same latents decodes the images while training."""

    @torch.no_grad()
    def test_the_small_vae_decodes_what_the_large_one_encoded(self, tmp_path: Path) -> None:
        import diffusers

        large, small = save_vae(tmp_path / "large"), save_vae(tmp_path / "small", "AutoencoderTiny")
        made, plain = Codec(codec(large, preview=WeightsConfig(folder=small))), Codec(codec(large))
        latents = made.encode(torch.rand(2, 3, 1, 32, 32) * 2 - 1, separate=False)
        by_library = diffusers.AutoencoderTiny.from_pretrained(small).eval().decode(latents[:, :, 0]).sample
        shown = made.decode(latents, separate=False, preview=True)
        torch.testing.assert_close(shown[:, :, 0], by_library, rtol=1e-4, atol=1e-4)
        assert torch.equal(made.decode(latents, separate=False), plain.decode(latents, separate=False))
        assert torch.equal(plain.decode(latents, separate=False, preview=True), plain.decode(latents, separate=False))
        assert made.record() == plain.record()  # the same latents: the same cache, the same checkpoints

    def test_one_of_other_latents_is_refused(self, tmp_path: Path) -> None:
        large = save_vae(tmp_path / "large", "AutoencoderKLWan")
        small = save_vae(tmp_path / "small", "AutoencoderTiny")
        with pytest.raises(UserError, match="another spatial_factor") as caught:
            AutoencoderConfig(weights=WeightsConfig(folder=large), preview=WeightsConfig(folder=small))
        assert caught.value.key == "preview"
        with pytest.raises(UserError, match="no folder") as caught:
            AutoencoderConfig(weights=WeightsConfig(folder=large), preview=WeightsConfig(folder=tmp_path / "none"))
        assert caught.value.key == "preview.folder"


@pytest.mark.parametrize("name", ["AutoencoderKL", "AutoencoderTiny", "AutoencoderKLWan", "AutoencoderKLLTXVideo"])
@torch.no_grad()
def test_chunks_and_slices_change_nothing(name: str, tmp_path: Path) -> None:
    folder = save_vae(tmp_path, name)
    x = torch.rand(3, 3, 1, 64, 64) * 2 - 1
    whole = codec(folder, chunk=8)
    latents, pixels = whole.encode(x), whole.decode(whole.encode(x))
    for options in ({"chunk": 1}, {"chunk": 2}, {"chunk": 8, "slicing": True}):
        parts = codec(folder, **options)
        torch.testing.assert_close(parts.encode(x), latents, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(parts.decode(latents), pixels, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_tiles_are_those_of_the_library_and_blend_without_seams(tmp_path: Path) -> None:
    import diffusers

    folder = save_vae(tmp_path)
    vae = diffusers.AutoencoderKL.from_pretrained(folder).eval()
    vae.enable_tiling()
    made = codec(folder, tiling=True)
    side = 2 * vae.tile_sample_min_size  # four tiles and more
    x = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8) * 2 - 1, size=(side, side), mode="bicubic")
    latents = vae.encode(x).latent_dist.mode()
    found = made.encode(x.unsqueeze(2))[:, :, 0]
    torch.testing.assert_close(found / 0.3 + 0.1, latents, rtol=1e-4, atol=1e-4)
    by_library = vae.decode(latents).sample
    torch.testing.assert_close(made.decode(found.unsqueeze(2))[:, :, 0], by_library, rtol=1e-4, atol=1e-4)
    untiled = codec(folder)
    assert not torch.equal(made.encode(x.unsqueeze(2)), untiled.encode(x.unsqueeze(2)))  # tiles were really made
