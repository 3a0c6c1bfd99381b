"""LoRAs of whatever origin, added to the weights of a network to sample with."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from t2x_core.assembly import Assembly, build_module, load_assembly
from t2x_core.checkpoint import materialize
from t2x_core.errors import UserError
from t2x_core.frozen import check_records
from t2x_core.initial import open_start
from t2x_core.lora.files import public_name, read_lora, refuse_pickle
from t2x_core.lora.layers import LayerUpdate, Lora
from t2x_core.lora.network import base_records, collect
from t2x_core.module import T2XModule
from t2x_core.paths import user_path
from t2x_core.recipe import LoraConfig
from t2x_core.runs import RECIPE_FILE, find_run
from t2x_core.weights import Records, Weights, open_weights

log = logging.getLogger("t2x")

Move = Callable[[Tensor, float], Tensor]
"""(a parameter, the weight of a LoRA) → the parameter with the LoRA."""


def open_lora(name: str | Path, checkpoint: str = "last", root: Path = Path("runs")) -> Lora:
    """A LoRA by the folder of its run, the name of its recipe (the newest run), the folder that `t2x export` or peft
    wrote, or a safetensors file.

    Raises:
        UserError: there is none of that name, it is damaged, or it could run code.
    """
    place = user_path(name)
    refuse_pickle(place)
    if os.path.isfile(place) or (os.path.isdir(place) and not _holds_run(place)):
        return read_lora(place)
    if place.suffix == ".safetensors":
        raise UserError(f"there is no file {place}")
    run = find_run(str(name), root)
    config = lora_of(run)
    if config is None:
        raise UserError(f"{run} was not trained with a LoRA", hint="sample it as it is")
    _, weights, records = open_weights(run, checkpoint)
    return collect(materialize(weights), config, record_of(records))


def _holds_run(folder: Path) -> bool:
    return (folder / RECIPE_FILE).is_file() or any(folder.glob(f"*/{RECIPE_FILE}"))


def lora_of(run: Path) -> LoraConfig | None:
    """The settings of the LoRA that a run trains; None: it trains none."""
    return load_assembly(str(run / RECIPE_FILE), []).recipe.backbone.lora


def record_of(records: Records) -> Mapping[str, str]:
    """What a run's checkpoint says of the backbone that its LoRA is trained on."""
    found = records.get("backbone") if isinstance(records, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def without_lora(assembly: Assembly) -> Assembly:
    """The same, of plain layers."""
    backbone = replace(assembly.recipe.backbone, lora=None)
    return replace(assembly, recipe=replace(assembly.recipe, backbone=backbone))


def build_tuned(assembly: Assembly, weights: Weights, records: Records, file: Path) -> tuple[Assembly, T2XModule]:
    """The network of a run that trained a LoRA, the update added to the weights of its base; and its assembly, without
    the LoRA.

    Args:
        weights, records, file: as `open_weights` gives them.

    Raises:
        UserError: the base is not there, or is another than the LoRA was trained on.
    """
    config = assembly.recipe.backbone.lora
    assert config is not None
    lora = collect(materialize(weights), config, record_of(records))
    plain = without_lora(assembly)
    module = build_module(plain, cached=False)
    start = open_start(plain, module)
    with assembly.composed.error_location(""):
        start.check_complete(besides=lora.whole)
    start.load(module)
    base = {name: tensor for name, tensor in module.network().items() if name not in lora.whole}
    check_records(records, {**module.records(), **base_records(base, start.name)}, str(file))
    add(module, lora, str(file))
    return plain, module


def backbone_hash(module: T2XModule) -> str:
    """By which a LoRA knows the backbone that it was trained on."""
    network = {name: tensor for name, tensor in module.network().items() if name.startswith("backbone.")}
    return base_records(network, "")["backbone"]["sha256"]


@torch.no_grad()
def add(module: T2XModule, lora: Lora, name: str, weight: float = 1.0) -> None:
    """Moves the weights of a network by `weight` times a LoRA (`name`, for messages).

    Raises:
        UserError: it is of another network; nothing has been changed.
    """
    network = module.network()
    for key, move in _moves(module, lora, name).items():
        network[key].copy_(move(network[key], weight))


class LoraStack:
    """LoRAs on a network, one on top of the other; their weights may be changed, and they may be taken off.

    What they change is kept as it was, in the CPU's memory.
    """

    def __init__(self, module: T2XModule) -> None:
        self._module = module
        self._plain: dict[str, Tensor] = {}
        self._moves: dict[str, Mapping[str, Move]] = {}
        self.weights: dict[str, float] = {}
        """Name of each → its weight."""
        self._hash = ""
        """Of the backbone without any."""

    def load(self, lora: Lora, name: str, weight: float) -> None:
        """Adds one on top; UserError if it is of another network, or is there already."""
        if name in self.weights:
            raise UserError(f"the LoRA {name} is loaded already", hint="give it one weight")
        moves = _moves(self._module, lora, name)
        network = self._module.network()
        self._hash = self._hash or backbone_hash(self._module)
        self._plain |= {key: network[key].detach().cpu().clone() for key in moves if key not in self._plain}
        self._moves[name] = moves
        self.set({**self.weights, name: weight})
        check_base(lora, self._hash, name)

    @torch.no_grad()
    def set(self, weights: Mapping[str, float]) -> None:
        """Other weights: those that are not named are taken off. UserError for a name that was not loaded."""
        for name in weights:
            if name not in self._moves:
                known = ", ".join(self._moves) or "none"
                raise UserError(f"the LoRA {name} is not loaded; there is {known}")
        if weights == self.weights:
            return
        network = self._module.network()
        for key, plain in self._plain.items():
            value = plain.to(network[key].device)
            for name, moves in self._moves.items():
                if key in moves and weights.get(name, 0.0) != 0:
                    value = moves[key](value, weights[name])
            network[key].copy_(value)
        self.weights = {name: weights[name] for name in self._moves if name in weights}
        self._moves = {name: self._moves[name] for name in self.weights}
        if not self.weights:
            self._plain = {}


def _moves(module: T2XModule, lora: Lora, name: str) -> dict[str, Move]:
    """Parameter of the network → its value moved by a LoRA (`name`, for messages) of some weight.

    Raises:
        UserError: it is of another network.
    """
    linear = {n: part for n, part in module.backbone.named_modules() if isinstance(part, nn.Linear)}
    flat = {n.replace(".", "_"): n for n in linear}  # kohya's scripts write "lora_unet_blocks_0_mlp_2"
    found: dict[str, Move] = {}
    for layer, update in lora.layers.items():
        own = layer if layer in linear else flat.get(layer.removeprefix("lora_unet_").removeprefix("lycoris_"))
        if own is None:
            raise UserError(f"{name} is of another network: there is no layer {layer} in this one")
        shape = tuple(linear[own].weight.shape)
        if shape != update.shape:
            here, there = ("×".join(map(str, one)) for one in (shape, update.shape))
            raise UserError(f"{name} is of another network: {layer} is {here} here, {there} there")
        found[f"backbone.{own}.weight"] = partial(_updated, update)
    network = module.network()
    for key, tensor in lora.whole.items():
        if key not in network or network[key].shape != tensor.shape:
            raise UserError(f"{name} is of another network: {key} of it is not in this one, or of another shape")
        found[key] = partial(_nearer, tensor)
    return found


def _updated(update: LayerUpdate, value: Tensor, weight: float) -> Tensor:
    on = {key: tensor.to(value.device) for key, tensor in update.tensors.items()}
    return LayerUpdate(on, update.scale).updated(value, weight)


def _nearer(trained: Tensor, value: Tensor, weight: float) -> Tensor:
    return value.lerp(trained.to(value), weight)


def check_base(lora: Lora, own: str, name: str) -> None:
    """A warning if a LoRA was trained on another backbone than that of the hash `own`."""
    if lora.base and lora.base != own:
        origin = f" ({public_name(lora.origin)})" if lora.origin else ""
        log.warning("%s was trained on other weights%s than these: its effect may be another", name, origin)
