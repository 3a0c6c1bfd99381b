"""The released weights: every name and shape, and the outputs of the authors' model on small networks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from t2x_core.backbone import PRESETS, ConditioningCache, PTDiT, PTDiTConfig, fold_released, load_released
from t2x_core.types import Conditioning

REFERENCE = Path(__file__).parent / "reference"
FULL = json.loads((REFERENCE / "qihoo_t2i_1b.json").read_text())


def read(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(REFERENCE / f"pt_dit_{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["config"])  # noqa: SIM118


def weights_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}


def full_state() -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in FULL["tensors"].items()}


@pytest.mark.parametrize("name", ["image", "video"])
def test_outputs_are_those_of_the_authors_model(name: str) -> None:
    tensors, config = read(name)
    model = load_released(weights_of(tensors), config)
    text_mask = tensors["input.text_mask"].bool()
    with torch.no_grad():
        out = model(
            tensors["input.latent"], tensors["input.timestep"] / 1000, Conditioning(tensors["input.text"], text_mask)
        )
    expected = tensors["output"].clone()
    expected[:, : config["in_channels"]] *= -1  # theirs predicts x₀ − ε, ours ε − x₀
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["image", "video"])
def test_folded_for_sampling_it_is_the_same_network(name: str) -> None:
    tensors, config = read(name)
    model = load_released(weights_of(tensors), config)
    folded, cache = fold_released(model), ConditioningCache()
    told = Conditioning(tensors["input.text"], tensors["input.text_mask"].bool())
    with torch.no_grad():
        for t in (tensors["input.timestep"] / 1000, torch.full((len(told.text),), 0.3)):
            expected = model(tensors["input.latent"], t, told)
            torch.testing.assert_close(folded(tensors["input.latent"], t, told, cache), expected, atol=1e-5, rtol=0)
    D = folded.config.width
    spared = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in folded.parameters())
    assert spared == folded.config.depth * (D * D + D)
    assert folded.head.linear.weight.data_ptr() == model.head.linear.weight.data_ptr()
    with pytest.raises(ValueError, match="not folded yet"):
        fold_released(folded)
    with pytest.raises(ValueError, match="only a released network"):
        fold_released(PTDiT(PTDiTConfig(in_channels=4, width=32, depth=1, heads=2)))


def test_padded_text_may_hold_anything() -> None:
    tensors, config = read("image")
    model = load_released(weights_of(tensors), config)
    mask = tensors["input.text_mask"].bool()
    assert not mask.all()
    other = torch.where(mask[..., None], tensors["input.text"], 100.0)
    t = tensors["input.timestep"] / 1000
    with torch.no_grad():
        out = [model(tensors["input.latent"], t, Conditioning(text, mask)) for text in (tensors["input.text"], other)]
    torch.testing.assert_close(*out)


def test_each_sample_of_a_batch_has_its_own_timestep() -> None:
    tensors, config = read("image")
    model = load_released(weights_of(tensors), config)
    x, t = tensors["input.latent"], torch.tensor([0.1, 0.9])
    text, mask = tensors["input.text"], tensors["input.text_mask"].bool()
    with torch.no_grad():
        batch = model(x, t, Conditioning(text, mask))
        single = [model(x[i : i + 1], t[i : i + 1], Conditioning(text[i : i + 1], mask[i : i + 1])) for i in range(2)]
    torch.testing.assert_close(batch, torch.cat(single))


@pytest.mark.parametrize("size", [(4, 1, 8, 8), (3, 2, 24, 20), (5, 6, 8, 24)])
def test_other_sizes_than_the_trained_one(size: tuple[int, int, int, int]) -> None:
    tensors, config = read("video")
    model = load_released(weights_of(tensors), config)
    B, *shape = size
    with torch.no_grad():
        out = model(torch.randn(B, 4, *shape), torch.rand(B), Conditioning(torch.randn(B, 3, 48)))
    assert out.shape == (B, 8, *shape)
    assert out.isfinite().all()


def test_every_released_name_and_shape() -> None:
    model = load_released(full_state(), FULL["config"])
    assert model.config == PTDiTConfig(**PRESETS["qihoo-t2i-1b"])
    assert sum(p.numel() for p in model.parameters()) == 1_131_629_216
    text = Conditioning(torch.empty(2, 200, 4096, device="meta"))
    out = model(torch.empty(2, 4, 1, 32, 32, device="meta"), torch.empty(2, device="meta"), text)
    assert out.shape == (2, 8, 1, 32, 32)


def test_names_with_and_without_prefix() -> None:
    tensors, config = read("image")
    with_prefix = load_released(weights_of(tensors), config).state_dict()
    plain = {name.removeprefix("model."): tensor for name, tensor in weights_of(tensors).items()}
    without = load_released(plain, config).state_dict()
    assert with_prefix.keys() == without.keys()
    assert all(torch.equal(with_prefix[name], without[name]) for name in with_prefix)


def test_weights_given_are_left_alone_and_trainable_here() -> None:
    tensors, config = read("image")
    head = tensors["model.proj_out.weight"].clone()
    model = load_released(weights_of(tensors), config)
    assert torch.equal(tensors["model.proj_out.weight"], head)
    assert all(p.requires_grad for p in model.parameters())


def test_missing_unexpected_and_misshapen_tensors_are_named() -> None:
    state = full_state()
    del state["transformer_blocks.3.attn3.to_k.bias"]
    state["transformer_blocks.28.linear_2.bias"] = torch.empty(1152, device="meta")
    state["proj_out.bias"] = torch.empty(16, device="meta")
    with pytest.raises(ValueError, match="do not fit") as error:
        load_released(state, FULL["config"])
    message = str(error.value)
    assert "missing: transformer_blocks.3.attn3.to_k.bias" in message
    assert "unexpected: transformer_blocks.28.linear_2.bias" in message
    assert "of another shape: proj_out.bias (16,) instead of (32,)" in message


def test_other_positions_are_refused() -> None:
    tensors, config = read("image")
    weights = weights_of(tensors)
    weights["model.pos_embed.pos_embed"] = weights["model.pos_embed.pos_embed"] + 0.01
    with pytest.raises(ValueError, match=r"pos_embed.pos_embed differs .* by 0.01"):
        load_released(weights, config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_fn": "geglu"}, "activation_fn must be 'gelu-approximate', not 'geglu'"),
        ({"shift_window": False}, "shift_window must be True"),
        ({"attention_bias": False}, "attention_bias must be True"),
        ({"norm_type": "layer_norm"}, "norm_type"),
        ({"norm_eps": 1e-5}, "norm_eps"),
        ({"cross_attention_dim": 1024}, "cross_attention_dim must be .* 1152, not 1024"),
        ({"proxy_compress_ratios": [1, 4, 4]}, r"\(1, 8, 8\) and proxy_compress_ratios \(1, 4, 4\) differ"),
    ],
)
def test_a_configuration_that_cannot_be_honoured_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_released(full_state(), FULL["config"] | changes)


@pytest.mark.parametrize("key", ["num_layers", "frame", "shift_window"])
def test_an_incomplete_configuration_is_refused(key: str) -> None:
    config = {name: value for name, value in FULL["config"].items() if name != key}
    with pytest.raises(ValueError, match=f"lacks '{key}'"):
        load_released(full_state(), config)


def test_larger_sample_sizes_divide_the_positions() -> None:
    tensors, config = read("image")
    weights = weights_of(tensors)
    k = torch.arange(64 * 64)

    def sincos(position: Tensor, dim: int) -> Tensor:
        angles = position[:, None].double() * 10000.0 ** (-torch.arange(dim // 2) / (dim / 2))
        return torch.cat((angles.sin(), angles.cos()), 1)

    space = torch.cat((sincos((k % 64) / 2, 24), sincos((k // 64) / 2, 24)), 1)
    frame = sincos(torch.zeros(1), 16).expand(64 * 64, -1)
    weights["model.pos_embed.pos_embed"] = torch.cat((frame, space), 1).float()[None, None]
    model = load_released(weights, config | {"sample_size": 128})
    assert isinstance(model, PTDiT)
    assert model.config.position_scale == 2
