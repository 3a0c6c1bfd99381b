"""The weights that a run begins with, from another run (`init_from`)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from t2x_core.assembly import Assembly
from t2x_core.errors import UserError
from t2x_core.module import T2XModule
from t2x_core.recipe import compose, to_plain
from t2x_core.runs import CHECKPOINT_FILE, RECIPE_FILE, find_start
from t2x_core.training.run_folder import flat
from t2x_core.weights import Weights, open_weights

Shapes = Mapping[str, Sequence[int]]

LISTED = 6
"""Groups of parameters that the log names of each kind."""
MEANING = ("backbone", "codec", "text_encoders", "diffusion.prediction")
"""Blocks of the recipe on which the meaning of weights depends, shapes apart."""


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
    """What `init_from` names, held against a module."""

    place: Path
    """Absolute: the checkpoint's folder, or the exported one."""
    weights: Weights
    own: Shapes
    match: Match
    settings: list[str]
    """Settings that give weights another meaning, in words."""

    @torch.no_grad()
    def load(self, module: T2XModule) -> None:
        """Puts in what fits. Before the module is moved, wrapped or sharded."""
        parameters = module.stored()
        for name, theirs in self.match.loaded.items():
            parameters[name].copy_(self.weights[theirs].full())

    def describe(self) -> list[str]:
        """Lines for the log: what is loaded, and by name and shape what is not."""
        theirs = {name: tuple(tensor.shape) for name, tensor in self.weights.items()}
        own = {name: tuple(shape) for name, shape in self.own.items()}
        loaded, all_of = (sum(torch.Size(own[n]).numel() for n in some) for some in (self.match.loaded, own))
        share = f"{len(self.match.loaded)} of {len(own)} parameters, {loaded / 1e6:.2f} of {all_of / 1e6:.2f} M numbers"
        moved = Counter((n.split(".")[1], t.split(".")[1]) for n, t in self.match.loaded.items() if n != t)
        return [
            f"{'init_from':11}{self.place}: averaged weights, {share}",
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


def open_start(init_from: str, assembly: Assembly, module: T2XModule) -> Start:
    """Finds what `init_from` names, and says what of it fits the module; nothing is loaded yet.

    Raises:
        UserError: with the place of `init_from`: there is no such run, it is damaged, or nothing of it fits.
    """
    with assembly.composed.error_location(""), _of_init_from():
        folder = find_start(init_from, assembly.recipe.logging.runs_dir)
        file, weights, _ = open_weights(folder)
        place = file if file.is_dir() else file.parent
        own = {name: tensor.shape for name, tensor in module.stored().items()}
        found = match(own, {name: tensor.shape for name, tensor in weights.items()})
        start = Start(place.absolute(), weights, own, found, _other_settings(place, assembly))
        if not found.loaded:
            example = next(iter(weights), "nothing at all")
            raise UserError(f"no weight in {place} fits this model by name and shape; {example} is in it, for example")
        return start


@contextmanager
def _of_init_from() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(error.message, key="init_from", hint=error.hint) from error


def _other_settings(place: Path, assembly: Assembly) -> list[str]:
    """Settings that differ from the other run's and give its weights another meaning. "" if its recipe is not there."""
    file = (place.parent.parent if (place / CHECKPOINT_FILE).is_file() else place) / RECIPE_FILE
    if not file.is_file():
        return []
    theirs, own = flat(compose(file).root.plain()), flat(to_plain(assembly.recipe))
    return [
        f"{key} is {own[key]} here, {theirs[key]} there"
        for key in own
        if key in theirs and own[key] != theirs[key] and any(f"{key}.".startswith(f"{block}.") for block in MEANING)
    ]
