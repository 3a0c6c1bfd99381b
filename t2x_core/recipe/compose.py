"""A recipe, its bases and the overrides of the command line → one tree, each value with its origin."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2x_core.errors import UserError, did_you_mean
from t2x_core.recipe.catalog import find_recipe, shipped_names, shipped_recipe
from t2x_core.recipe.source import COMMAND_LINE, Node, Origin, located, parse_value, read_yaml, show


@dataclass(frozen=True)
class Composed:
    """A recipe before it is checked."""

    file: Path
    """The recipe's own file, absolute."""
    root: Node
    """Everything merged and interpolated; a null is kept, see `merge`."""

    def find(self, path: str) -> Node | None:
        """The node at "a.b.c" ("" is the root), or None."""
        return self.root.find(path)

    def where(self, path: str) -> str:
        """Where the value at "a.b.c" was written: "file:line" or "command line". A default has the place of the
        mapping that it could stand in."""
        return str(self.root.where(path))

    def override(self, overrides: Sequence[str]) -> Composed:
        """The same with `a.b=c` overrides applied on top."""
        root = self.root
        for override in overrides:
            root = _override(root, override)
        return Composed(self.file, _interpolate(root))

    @contextmanager
    def blame(self, path: str) -> Iterator[None]:
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
    root = _with_bases(file, ())
    for override in overrides:
        root = _override(root, override)
    return Composed(file, _interpolate(root))


def merge(base: Node, over: Node) -> Node:
    """Mappings merge, anything else replaces. A null stays in the tree and takes away what was inherited: it means
    None where the schema allows None, and "not set" elsewhere."""
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    merged = dict(base.value)
    for key, child in over.value.items():
        merged[key] = merge(merged[key], child) if key in merged else child
    return Node(merged, over.origin)


def _with_bases(file: Path, chain: tuple[Path, ...]) -> Node:
    own = read_yaml(file)
    entries = dict(own.value)
    root = Node({}, own.origin)
    base = entries.pop("base", None)
    chain = (*chain, file.resolve())
    for name in _base_names(base):
        found = _find_base(name, file, chain)
        if found.resolve() in chain:
            circle = " → ".join(path.name for path in (*chain[chain.index(found.resolve()) :], found))
            raise UserError(f"base goes in a circle: {circle}", where=str(name.origin))
        root = merge(root, _with_bases(found, chain))
    return merge(root, Node(entries, own.origin))


def _base_names(base: Node | None) -> list[Node]:
    if base is None or base.value is None:
        return []
    names = base.value if isinstance(base.value, list) else [base]
    for name in names:
        if not isinstance(name.value, str):
            raise UserError(f"base must be a recipe or a list of recipes, not {show(name)}", where=str(name.origin))
    return names


def _find_base(name: Node, file: Path, chain: Sequence[Path]) -> Path:
    beside = file.parent / Path(name.value).expanduser()
    found = beside if beside.is_file() else shipped_recipe(name.value)
    if found is not None:
        return found
    neighbours = [path for path in beside.parent.glob("*.yaml") if path.resolve() not in chain]
    names = [os.path.relpath(path, file.parent) for path in neighbours]
    needed = f" (needed by {' → '.join(path.name for path in chain)})" if len(chain) > 1 else ""
    raise UserError(
        f'no base "{name.value}": there is no such file beside this one, and none of that name ships with t2x{needed}',
        where=str(name.origin),
        hint=did_you_mean(name.value, [*names, *shipped_names()]),
    )


def _override(root: Node, text: str) -> Node:
    path, equals, written = text.partition("=")
    path = path.strip()
    keys = path.split(".")
    problem = ""
    if path.startswith("-"):
        problem = "overrides have no dashes"
    elif not equals:
        problem = "write key.sub=value"
    elif not all(keys):
        problem = "write key.sub=value, with no empty key"
    elif not written.strip():
        problem = f"there is no value; {path}=null goes back to the default"
    elif keys[0] == "base":
        problem = "base is set in a recipe file only"
    if problem:
        raise UserError(f'bad override "{text}"', where=str(COMMAND_LINE), hint=problem)
    try:
        value = parse_value(written)
    except UserError as error:
        raise UserError(f'bad override "{text}": {error.message}', where=str(COMMAND_LINE)) from error
    return _put(root, keys, value)


def _put(node: Node, keys: Sequence[str], value: Node) -> Node:
    if not keys:
        return merge(node, value)
    entries = dict(node.value) if isinstance(node.value, dict) else {}
    entries[keys[0]] = _put(entries.get(keys[0], Node(None, COMMAND_LINE)), keys[1:], value)
    return Node(entries, node.origin if isinstance(node.value, dict) else COMMAND_LINE)


def _interpolate(root: Node) -> Node:
    """Resolves `${a.b}` by OmegaConf, which is loaded only if there is one. What comes out has the origin of the
    text that asked for it."""
    asking = {path: node for path, node in root.walk() if isinstance(node.value, str) and "${" in node.value}
    if not asking:
        return root
    from omegaconf import OmegaConf
    from omegaconf.errors import GrammarParseError, OmegaConfBaseException

    for node in asking.values():
        if _calls_resolver(node.value):
            # Resolvers run code and read the environment; a recipe that came from elsewhere must do neither.
            problem, hint = "calls a resolver", "a recipe may refer only to its own keys, as in ${trainer.max_steps}"
            raise UserError(f'"{node.value}" {problem}', where=str(node.origin), hint=hint)
        try:
            OmegaConf.create([node.value])
        except GrammarParseError as error:
            problem, hint = "is a broken interpolation", r"write ${trainer.max_steps}, and a plain ${ as \${"
            raise UserError(f'"{node.value}" {problem}', where=str(node.origin), hint=hint) from error
    tree = OmegaConf.create(root.plain())

    def resolve(path: tuple[str | int, ...], node: Node) -> Any:
        try:
            value: Any = tree
            for key in path:
                value = value[key]
            return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f'cannot resolve "{node.value}": {reason}', where=str(node.origin), hint=_meant(node.value, root)
            ) from error

    def rebuild(node: Node, path: tuple[str | int, ...]) -> Node:
        if path in asking:
            return _as_nodes(resolve(path, node), node.origin)
        if isinstance(node.value, dict):
            return Node({key: rebuild(child, (*path, key)) for key, child in node.value.items()}, node.origin)
        if isinstance(node.value, list):
            return Node([rebuild(child, (*path, index)) for index, child in enumerate(node.value)], node.origin)
        return node

    return rebuild(root, ())


def _meant(text: str, root: Node) -> str | None:
    """A hint if the text refers to a key that the recipe does not write."""
    written = [".".join(map(str, path)) for path, _ in root.walk()]
    unknown = [name for name in re.findall(r"\$\{([^${}.][^${}]*)\}", text) if name not in written]
    if not unknown:
        return None
    return did_you_mean(unknown[0], written) or "only keys that are written in the recipe can be referred to"


def _calls_resolver(text: str) -> bool:
    """Whether a ":" stands inside `${…}`. Escapes are not honoured: better to refuse too much."""
    depth = 0
    for token in re.findall(r"\$\{|\}|:", text):
        if token == ":" and depth:
            return True
        depth = max(0, depth + {"${": 1, "}": -1, ":": 0}[token])
    return False


def _as_nodes(value: Any, origin: Origin) -> Node:
    if isinstance(value, dict):
        return Node({key: _as_nodes(child, origin) for key, child in value.items()}, origin)
    if isinstance(value, list):
        return Node([_as_nodes(child, origin) for child in value], origin)
    return Node(value, origin)
