"""The weights that a network begins with (`backbone.weights`): of a run, of the authors' release, of any file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from t2x_core.assembly import Assembly
from t2x_core.backbone.embeddings import position_table
from t2x_core.backbone.released_layout import POSITIONS
from t2x_core.errors import UserError
from t2x_core.hub import HubPlace
from t2x_core.lora.network import HELPERS, is_update
from t2x_core.module import T2XModule
from t2x_core.recipe import Recipe, check_recipe, compose, flat, to_plain
from t2x_core.runs import CHECKPOINT_FILE, RECIPE_FILE, find_weights
from t2x_core.terminal import command
from t2x_core.weight_files import AnyTensor, read_foreign, weights_hash
from t2x_core.weights import open_weights

Shapes = Mapping[str, Sequence[int]]

LISTED = 6
"""Groups of parameters that the log names of each kind."""
MEANING = ("backbone", "codec", "text_encoders", "diffusion.prediction", "diffusion.path", "diffusion.schedule")
"""Blocks of the recipe on which the meaning of weights depends, shapes apart."""
NEUTRAL = ("backbone.weights", "backbone.lora")
"""Keys in them that change no meaning."""


@dataclass(frozen=True)
class Match:
    """Which of the other run's parameters goes where."""

    loaded: dict[str, str] = field(default_factory=dict)
    """Own name → theirs."""
    fresh: list[str] = field(default_factory=list)
    """Own ones that the other does not have."""
    reshaped: list[str] = field(default_factory=list)
    """In both, of different shapes."""
    left_out: list[str] = field(default_factory=list)
    """Theirs that are not in this one."""


def match(own: Shapes, theirs: Shapes) -> Match:
    """By name and shape. What only another task's adapter has goes by the end of its name, if one task alone fits."""
    found = Match()
    for name, shape in own.items():
        if name in theirs:
            if tuple(theirs[name]) == tuple(shape):
                found.loaded[name] = name
            else:
                found.reshaped.append(name)
        elif len(others := [o for o in _elsewhere(name, theirs) if tuple(theirs[o]) == tuple(shape)]) == 1:
            found.loaded[name] = others[0]
        else:
            found.fresh.append(name)
    used = {*found.loaded.values(), *found.reshaped}
    found.left_out.extend(name for name in theirs if name not in used)
    return found


def _elsewhere(name: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that call the same of another task's adapter: "adapters.<task>.<the same>"."""
    root, _, rest = name.partition(".")
    _, _, end = rest.partition(".")
    return [o for o in names if root == "adapters" and re.fullmatch(rf"adapters\.[^.]+\.{re.escape(end)}", o)]


@dataclass(frozen=True)
class Start:
    """What `backbone.weights` names, held against a module."""

    name: str
    """Where it is, for a recipe: an absolute path, or a hub's URL with its commit."""
    place: Path
    """On this machine: a file, a checkpoint's folder, or a folder of safetensors files."""
    kind: str
    """What the weights are, in words."""
    weights: Mapping[str, AnyTensor]
    own: Shapes
    match: Match
    settings: list[str]
    """Settings that give weights another meaning, in words."""
    needed: frozenset[str] = frozenset()
    """Own parameters that it must hold: those that a LoRA leaves as they are."""

    def record(self) -> dict[str, str]:
        """What a run keeps of it: where it was, and the hash of its content."""
        return {"place": self.name, "sha256": weights_hash(self.place)}

    def check_complete(self, besides: Container[str] = ()) -> None:
        """UserError if a parameter of the network is neither in it nor in `besides`: then samples would show noise."""
        lacking = [name for name in (*self.match.fresh, *self.match.reshaped) if name not in besides]
        if lacking := [name for name in lacking if not name.startswith(HELPERS)]:
            more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
            raise UserError(
                f"{self.name} does not hold the whole network: {', '.join(lacking[:3])}{more}",
                key="backbone.weights",
                hint="sample with the settings that it was trained with, or train from it first",
            )

    @torch.no_grad()
    def load(self, module: T2XModule) -> None:
        """Puts in what fits. Before the module is moved, wrapped or sharded."""
        self._check_base()
        parameters = module.network()
        for name, theirs in self.match.loaded.items():
            parameters[name].copy_(self.weights[theirs].full())
        if module.base is not None:
            module.base.settle(module, self.name)

    def _check_base(self) -> None:
        """UserError if it lacks what a LoRA leaves as it is: that would stay as the seed made it."""
        if lacking := [name for name in (*self.match.fresh, *self.match.reshaped) if name in self.needed]:
            more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
            root = next((name.partition(".")[0] for name in lacking if not name.startswith("backbone.")), None)
            raise UserError(
                f"{self.name} does not hold all that a LoRA leaves as it is: {', '.join(lacking[:3])}{more}",
                key="backbone.weights",
                hint=f'train these whole, backbone.lora.train: ["{root}.*"]' if root else "the sizes must be the same",
            )

    def describe(self) -> list[str]:
        """Lines for the log: what is loaded, and by name and shape what is not."""
        theirs = {name: tuple(tensor.shape) for name, tensor in self.weights.items()}
        own = {name: tuple(shape) for name, shape in self.own.items()}
        loaded, all_of = (sum(torch.Size(own[n]).numel() for n in some) for some in (self.match.loaded, own))
        share = f"{len(self.match.loaded)} of {len(own)} parameters, {loaded / 1e6:.2f} of {all_of / 1e6:.2f} M numbers"
        moved = Counter((n.split(".")[1], t.split(".")[1]) for n, t in self.match.loaded.items() if n != t)
        return [
            f"{'weights':11}{self.name}: {self.kind}, {share}",
            *(f"{'':11}the adapter of {task} takes {n} of that of {other}" for (task, other), n in moved.items()),
            *_listed("fresh", self.match.fresh, lambda n: str(own[n])),
            *_listed("other size", self.match.reshaped, lambda n: f"{own[n]} here, {theirs[n]} there"),
            *_listed("left out", self.match.left_out, lambda n: str(theirs[n])),
            *(f"{'but':11}{difference}" for difference in self.settings),
        ]


def _listed(title: str, names: Iterable[str], shape: Any) -> Iterator[str]:
    """A line a group of names that differ in numbers alone, with its shape; at most `LISTED`."""
    groups = Counter(f"{re.sub(r'[.][0-9]+(?=[.]|$)', '.*', name)} {shape(name)}" for name in names)
    lines = [f"{group}" + (f" × {n}" if n > 1 else "") for group, n in groups.items()]
    more = len(lines) - LISTED
    lines = [*lines[:LISTED], f"and {more} more"] if more > 1 else lines
    return (f"{'' if i else title:11}{line}" for i, line in enumerate(lines))


def open_start(assembly: Assembly, module: T2XModule, weights: str | None = None) -> Start:
    """Finds what `backbone.weights` names (or `weights` in its place), and says what of it fits the module; nothing is
    loaded yet. Downloads what is on a hub.

    Raises:
        UserError: with the place of the setting: there is no such file, it is damaged, or nothing of it fits.
    """
    asked = weights or assembly.recipe.backbone.weights
    assert asked is not None
    with assembly.composed.error_location(""), _error_key():
        found = find_weights(asked, assembly.recipe.logging.runs_dir)
        name = None
        if isinstance(found, HubPlace):
            found, name = found.fetch()
        settings: list[str] = []
        tensors: Mapping[str, AnyTensor]
        unused: Mapping[str, AnyTensor] = {}
        if found.is_dir() and any((found / file).is_file() for file in (RECIPE_FILE, CHECKPOINT_FILE)):
            file, tensors, _ = open_weights(found)
            place, kind = (file if file.is_dir() else file.parent), "averaged weights"
            settings = _other_settings(place, assembly)
            if any(is_update(name) for name in tensors):
                again = command("t2x", "export", found, "--merge", "--out", "NEW")
                raise UserError(f"{place} holds a LoRA alone", hint=f"first make a whole model of it: {again}")
        else:
            foreign = read_foreign(found, module.backbone.config.out_channels)
            place, tensors, unused = found, foreign.tensors, foreign.unused
            kind = "the released network" if foreign.released else "weights"
            settings = _other_positions(unused, module)
        own = {name: tensor.shape for name, tensor in module.network().items()}
        matched = match(own, {name: tensor.shape for name, tensor in tensors.items()})
        if not matched.loaded:
            example = next(iter({**tensors, **unused}), "nothing at all")
            raise UserError(f"no weight in {place} fits this model by name and shape; {example} is in it, for example")
        matched.left_out.extend(n for n in unused if n != POSITIONS)
        name = name or str(place.absolute())
        needed = frozenset() if module.base is None else own.keys() - module.base.optional
        return Start(name, place.absolute(), kind, {**tensors, **unused}, own, matched, settings, frozenset(needed))


def _other_positions(unused: Mapping[str, AnyTensor], module: T2XModule) -> list[str]:
    """The release keeps its table of positions: a line if it is not the one that our network adds."""
    if (stored := unused.get(POSITIONS)) is None or len(stored.shape) != 4:
        return []
    config, side = module.backbone.config, round(stored.shape[2] ** 0.5)
    if stored.shape[3] != config.width:
        return []
    ours = position_table((stored.shape[1], side, side), config.width, config.position_scale, torch.device("cpu"), True)
    difference = (stored.full().float().flatten(0, 2) - ours).abs().max().item()
    return [f"its positions differ from ours by {difference:.2g}"] if difference > 0.01 else []


@contextmanager
def _error_key() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(error.message, key="backbone.weights", hint=error.hint) from error


def _other_settings(place: Path, assembly: Assembly) -> list[str]:
    """Settings that differ from the other run's and give its weights another meaning. "" if its recipe is not there."""
    file = (place.parent.parent if (place / CHECKPOINT_FILE).is_file() else place) / RECIPE_FILE
    if not file.is_file():
        return []
    composed = compose(file)
    theirs, own = flat(composed.root.plain()), flat(to_plain(assembly.recipe))
    different = [key for key in own if key in theirs and own[key] != theirs[key] and key not in NEUTRAL]
    found = [
        f"{key} is {own[key]} here, {theirs[key]} there"
        for key in different
        if any(f"{key}.".startswith(f"{block}.") for block in MEANING)
    ]
    return [*found, *_other_range(assembly.recipe, check_recipe(composed, assembly.registry.schema))]


def _other_range(own: Recipe, theirs: Recipe | None) -> list[str]:
    """A line if positions go further here than where the weights were trained: which scale interpolates them."""
    if theirs is None or not (here := _largest_grid(own)) or not (there := _largest_grid(theirs)):
        return []
    scale = theirs.backbone.position_scale * here / there
    if here / own.backbone.position_scale <= there / theirs.backbone.position_scale:
        return []
    return [f"{here:g} tokens a side here, {there:g} there: backbone.position_scale={scale:g} interpolates positions"]


def _largest_grid(recipe: Recipe) -> float:
    """Tokens along the longest side that the recipe itself fixes; 0 if it fixes none."""
    sides = [max(size) for task in recipe.tasks.values() for size in task.sizes().values()]
    return max(sides, default=0) / ((recipe.codec.spatial_factor or 1) * recipe.backbone.patch_size)
