"""A recipe → the configuration of its backbone, and whether there is room for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch

from t2x_core.backbone.config import PTDiTConfig
from t2x_core.backbone.presets import PRESETS
from t2x_core.backbone.pt_dit import PTDiT
from t2x_core.errors import UserError
from t2x_core.free_memory import GIB
from t2x_core.recipe import Recipe
from t2x_core.recipe.backbone_config import NetworkConfig
from t2x_core.types import ConditioningDims


def backbone_config(recipe: Recipe, channels: int, dims: Sequence[ConditioningDims]) -> PTDiTConfig:
    """The backbone's configuration: preset, what the recipe says instead, room for every task's conditioning."""
    block = recipe.backbone
    preset = PRESETS[block.preset] if block.preset else {}
    released = bool(preset.get("released"))
    widest = {part.name: max(getattr(each, part.name) for each in dims) for part in fields(ConditioningDims)}
    try:
        return PTDiTConfig(
            in_channels=channels,
            **{name: getattr(block, name) or preset[name] for name in ("width", "depth", "heads")},
            **{each.name: getattr(block, each.name) for each in fields(NetworkConfig)},
            out_channels=2 * channels if released else 0,  # the other half: a variance, which rectified flow ignores
            released=released,
            dims=ConditioningDims(**widest),
            shared_by=tuple(dims),
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error


def check_room(config: PTDiTConfig, room: int | None) -> None:
    """UserError if the weights of a backbone are larger than the memory that is free, `room` bytes; None: unknown."""
    smaller = "make it smaller: width, depth or mlp_ratio"
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # takes none
        try:
            size = sum(weight.nbytes for weight in PTDiT(config).parameters())
        except RuntimeError as error:  # its sizes overflow
            raise UserError("its weights are larger than any memory", hint=smaller) from error
    if room is not None and size > room:
        has = f"{size / GIB:,.1f} GiB, and {room / GIB:,.1f} GiB of memory are free"
        raise UserError(f"its weights take {has}", hint=smaller)
