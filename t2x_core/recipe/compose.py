"""A recipe, its bases and the overrides of the command line → one tree, each value with its origin."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from t2x_core.errors import UserError, did_you_mean
from t2x_core.paths import user_path
from t2x_core.recipe.catalog import find_recipe, shipped_names, shipped_recipe
from t2x_core.recipe.interpolate import interpolate
from t2x_core.recipe.overrides import as_nodes, merge, override, with_values
from t2x_core.recipe.renamed import rename
from t2x_core.recipe.source import Node, Origin, located, show
from t2x_core.recipe.yaml_tree import MOST_VALUES, read_yaml

MOST_BASES: Final = 100
"""Times that a base is named, in a recipe and its bases together, at most."""


@dataclass(frozen=True)
class Composed:
    """A recipe before it is checked."""

    file: Path
    """The recipe's own file, absolute."""
    root: Node
    """Everything merged and interpolated; a null is kept, see `merge`."""
    notes: tuple[str, ...] = ()
    """A line for each key with an old name."""

    def find(self, path: str) -> Node | None:
        """The node at "a.b.c" ("" is the root), or None."""
        return self.root.find(path)

    def where(self, path: str) -> str:
        """Where the value at "a.b.c" was written: "file:line" or "command line". A default has the place of the
        mapping that it could stand in."""
        return str(self.root.where(path))

    def with_values(self, values: Mapping[str, Any]) -> Composed:
        """The same with other values at some "a.b.c"; one that is `Written` is read like one of the command line."""
        return replace(self, root=interpolate(with_values(self.root, values)))

    @contextmanager
    def error_location(self, path: str) -> Iterator[None]:
        """A UserError from inside that names no place gets that of its `key` in the block at `path`."""
        try:
            yield
        except UserError as error:
            block = self.find(path) or Node({}, self.root.where(path))
            raise located(error, block, path) from error


def compose(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Composed:
    """Reads a recipe (a path, or a shipped recipe's name) with its bases, then applies `a.b=c` overrides in order.

    Raises UserError for whatever cannot be read or put together; keys and types are not looked at here.
    """
    file = find_recipe(name_or_path).absolute()
    bases = _Bases()
    root = bases.read(file, ())
    for text in overrides:
        after, notes = override(root, text)
        root = _of_one_component(root, after)
        bases.notes += notes
    return Composed(file, interpolate(root), tuple(bases.notes))


def composed_of(tree: Mapping[str, Any], name: str = "recipe") -> Composed:
    """A recipe of plain values, without bases; `name`: what messages call the place of all of them."""
    return Composed(Path(name).absolute(), interpolate(as_nodes(tree, Origin(Path(name)))))


class _Bases:
    """Reads recipe files, each once."""

    def __init__(self) -> None:
        self.done: dict[Path, Node] = {}
        self.named = self.values = 0
        self.notes: list[str] = []
        """Keys with old names."""

    def read(self, file: Path, chain: tuple[Path, ...]) -> Node:
        """The file on top of its bases."""
        place = Path(os.path.abspath(file))  # not resolved: relative paths are relative to the name that was used
        if place in self.done:
            return self.done[place]
        own, notes = rename(read_yaml(file))
        self.notes += notes
        self.values += sum(1 for _ in own.walk())
        if self.values > MOST_VALUES:
            raise UserError(f"the recipe has, with its bases, more than {MOST_VALUES} values", where=str(own.origin))
        entries = dict(own.value)
        root = Node({}, own.origin)
        chain = (*chain, Path(os.path.realpath(file)))
        for name in _base_names(entries.pop("base", None)):
            self.named += 1
            if self.named > MOST_BASES or len(chain) > MOST_BASES // 4:
                problem = (
                    f"too many bases: at most {MOST_BASES} are read, {MOST_BASES // 4} of them one below the other"
                )
                raise UserError(problem, where=str(name.origin))
            found = _find_base(name, file, chain)
            if (there := Path(os.path.realpath(found))) in chain:
                circle = " → ".join(path.name for path in (*chain[chain.index(there) :], found))
                raise UserError(f"base goes in a circle: {circle}", where=str(name.origin))
            root = _merged(root, self.read(found, chain))
        self.done[place] = _merged(root, Node(entries, own.origin))
        return self.done[place]


def _merged(base: Node, over: Node) -> Node:
    """A recipe on top of its base. Where it names another codec or text encoder, the settings of the base's go."""
    root, names = base, _component_names(base)
    for keys, block in _components(over).items():
        if (now := _name(block)) is not None and names.get(keys, now) != now:
            root = _replaced(root, keys, Node({}, block.origin))
    return merge(root, over)


def _of_one_component(before: Node, after: Node) -> Node:
    """A recipe after an override. Where that named another codec or text encoder, what files set of the other goes."""
    names, now = _component_names(before), _component_names(after)
    for keys, block in _components(after).items():
        if keys in names and names[keys] != now[keys]:
            kept = {key: child for key, child in block.value.items() if child.origin.file is None}
            after = _replaced(after, keys, Node(kept, block.origin))
    return after


def _components(root: Node) -> dict[tuple[str, ...], Node]:
    """Keys → the block of the codec, and of each text encoder."""
    encoders = root.find("text_encoders")
    names = encoders.value if encoders is not None and isinstance(encoders.value, dict) else ()
    places = [("codec",), *(("text_encoders", name) for name in names)]
    found = {keys: root.find(".".join(keys)) for keys in places}
    return {keys: block for keys, block in found.items() if block is not None and isinstance(block.value, dict)}


def _component_names(root: Node) -> dict[tuple[str, ...], str]:
    """Keys of those blocks that say, by `name` or by their own key, which component it is → its registered name."""
    found = {keys: _name(block) or (keys[1] if len(keys) > 1 else None) for keys, block in _components(root).items()}
    return {keys: name for keys, name in found.items() if name is not None}


def _name(block: Node) -> str | None:
    name = block.value.get("name")
    return name.value if name is not None and isinstance(name.value, str) else None


def _replaced(root: Node, keys: Sequence[str], block: Node) -> Node:
    if not keys:
        return block
    return Node({**root.value, keys[0]: _replaced(root.value[keys[0]], keys[1:], block)}, root.origin)


def _base_names(base: Node | None) -> list[Node]:
    if base is None or base.value is None:
        return []
    names = base.value if isinstance(base.value, list) else [base]
    for name in names:
        if not isinstance(name.value, str):
            raise UserError(f"base must be a recipe or a list of recipes, not {show(name)}", where=str(name.origin))
    return names


def _find_base(name: Node, file: Path, chain: Sequence[Path]) -> Path:
    try:
        beside = file.parent / user_path(name.value)
    except UserError as error:
        raise UserError(f"base: {error.message}", where=str(name.origin), hint=error.hint) from error
    found = beside if os.path.isfile(beside) else shipped_recipe(name.value)
    if found is not None:
        return found
    if os.path.exists(beside):
        raise UserError(f'the base "{name.value}" is no file', where=str(name.origin))
    there = islice(beside.parent.glob("*.yaml"), 1000)
    neighbours = [path for path in there if Path(os.path.realpath(path)) not in chain]
    names = [os.path.relpath(path, file.parent) for path in neighbours]
    needed = f" (needed by {' → '.join(path.name for path in chain)})" if len(chain) > 1 else ""
    raise UserError(
        f'no base "{name.value}": there is no such file beside this one, and none of that name ships with t2x{needed}',
        where=str(name.origin),
        hint=did_you_mean(name.value, [*names, *shipped_names()]),
    )
