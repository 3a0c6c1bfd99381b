"""Reads the weights of the authors' released PT-DiT into ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from t2x_core.backbone.config import PTDiTConfig
from t2x_core.backbone.embeddings import position_table
from t2x_core.backbone.pt_dit import PTDiT
from t2x_core.backbone.released_layout import POSITIONS, released_parameters, sources
from t2x_core.types import ConditioningDims

KNOWN_SETTINGS = {
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "shift_window": True,
}


def load_released(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> PTDiT:
    """Builds a `PTDiT` from released tensors, which may be on the meta device.

    The released network predicts x₀ − ε in its first `in_channels` output channels; their rows of the head are negated,
    so that ours predicts ε − x₀. Projections that ours computes in one product are concatenated. The table of positions
    is checked, not kept. What needs no change shares memory with `state_dict`.

    Args:
        state_dict: every tensor of the release under its released name, with or without "model." in front.
        config: the released configuration; keys that do not concern the network are ignored.

    Raises:
        ValueError: the configuration lacks a value or has one that the network cannot honour; tensors are missing,
            unexpected or of another shape (the message names them); the positions are others.
    """
    ours = _read_config(config)
    state = {name.removeprefix("model."): tensor for name, tensor in state_dict.items()}
    with torch.device("meta"):
        model = PTDiT(ours)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.state_dict().items()}
    P, side = ours.patch_size, config["sample_size"] // ours.patch_size
    expected = {POSITIONS: (1, config["frame"], side * side, ours.width)}
    for name, parts in sources(ours.depth).items():
        rows, *rest = shapes[name]
        expected |= dict.fromkeys(parts, (rows // len(parts), *rest))
    expected["pos_embed.proj.weight"] = (ours.width, ours.in_channels, P, P)
    _check_tensors(state, expected)
    _check_positions(state[POSITIONS], (config["frame"], side, side), ours)

    made = released_parameters({name: tensor.shape for name, tensor in state.items()})
    weights = {name: parameter.make([state[part] for part in parameter.parts]) for name, parameter in made.items()}
    model.load_state_dict(weights, assign=True)
    return model


def fold_released(model: PTDiT) -> PTDiT:
    """A released network with one projection instead of two after the visual cross-attention.

    It computes the same, to rounding, with 2·N·D² operations a block less. What is not folded shares memory with
    `model`. (After the shifted window attention a gate that depends on t stands between two projections.)

    Raises:
        ValueError: the model is not a released one, or is folded already.
    """
    if not model.config.released or model.config.folded:
        raise ValueError("only a released network that is not folded yet can be folded")
    with torch.device("meta"):
        folded = PTDiT(replace(model.config, folded=True))
    weights = model.state_dict()
    for index in range(model.config.depth):
        first, second = f"blocks.{index}.visual_attention.out", f"blocks.{index}.visual_linear0"
        outer = weights.pop(f"{second}.weight").double()
        weight, bias = weights[f"{first}.weight"], weights[f"{first}.bias"]
        weights[f"{first}.weight"] = (outer @ weight.double()).to(weight.dtype)
        weights[f"{first}.bias"] = (outer @ bias.double() + weights.pop(f"{second}.bias")).to(bias.dtype)
    folded.load_state_dict(weights, assign=True)
    return folded.train(model.training)


def _read_config(config: Mapping[str, Any]) -> PTDiTConfig:
    """Our configuration for a released one."""
    try:
        for key, known in KNOWN_SETTINGS.items():
            if config[key] != known:
                raise ValueError(f"released configuration: {key} must be {known!r}, not {config[key]!r}")
        window, proxy_window = tuple(config["compress_ratios"]), tuple(config["proxy_compress_ratios"])
        if window != proxy_window:
            raise ValueError(
                f"released configuration: compress_ratios {window} and proxy_compress_ratios {proxy_window} differ"
            )
        width = config["num_heads"] * config["head_dim"]
        if config["cross_attention_dim"] != width:
            raise ValueError(
                f"released configuration: cross_attention_dim must be num_heads · head_dim, {width}, "
                f"not {config['cross_attention_dim']}"
            )
        config["frame"]  # read again for the table of positions
        return PTDiTConfig(
            in_channels=config["in_channels"],
            out_channels=config["out_channels"],
            width=width,
            depth=config["num_layers"],
            heads=config["num_heads"],
            patch_size=config["patch_size"],
            window=window,
            dims=ConditioningDims(text=config["caption_channels"]),
            position_scale=max(config["sample_size"] // 64, 1),
            released=True,
        )
    except KeyError as missing:
        raise ValueError(f"the released configuration lacks {missing}") from None


def _check_tensors(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """All names and shapes, and no others."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    problems = {
        "missing": sorted(expected.keys() - shapes.keys()),
        "unexpected": sorted(shapes.keys() - expected.keys()),
        "of another shape": [
            f"{name} {shapes[name]} instead of {shape}"
            for name, shape in expected.items()
            if name in shapes and shapes[name] != shape
        ],
    }
    found = [f"{what}: {', '.join(names)}" for what, names in problems.items() if names]
    if found:
        raise ValueError("released tensors do not fit the configuration; " + "; ".join(found))


def _check_positions(stored: Tensor, grid: tuple[int, int, int], config: PTDiTConfig) -> None:
    """The released positions of the grid that was trained on, (1, f, h·w, D), against ours."""
    if stored.is_meta:
        return
    ours = position_table(grid, config.width, config.position_scale, torch.device("cpu"), released=True)
    difference = (stored.cpu().float().flatten(0, 2) - ours).abs().max().item()
    if difference > max(1e-5, torch.finfo(stored.dtype).eps):
        raise ValueError(f"{POSITIONS} differs from the sin-cos table of grid {grid} by {difference:.2g}")
