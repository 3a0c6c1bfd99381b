"""`${a.b}` in a recipe stands for the value of another key. OmegaConf resolves it, within limits."""

from __future__ import annotations

import re
from typing import Any

from t2x_core.errors import UserError, did_you_mean
from t2x_core.recipe.overrides import as_nodes
from t2x_core.recipe.source import Node
from t2x_core.recipe.yaml_tree import DEEPEST
from t2x_core.terminal import printable

MOST_ASKED = 4000
"""Characters of all texts with a `${` together, at most: they are parsed."""
MOST_RESOLVED = 20_000
"""Characters and values that the interpolations of a recipe stand for, at most."""
LONGEST_CHAIN = 20
"""Interpolations that stand for each other."""

Path = tuple[str | int, ...]


def interpolate(root: Node) -> Node:
    """The tree with its `${a.b}` resolved. What comes out has the origin of the text that asked for it."""
    asking = {path: node for path, node in root.walk() if isinstance(node.value, str) and "${" in node.value}
    if not asking:
        return root
    if sum(len(node.value) for node in asking.values()) > MOST_ASKED:
        where = str(next(iter(asking.values())).origin)
        raise UserError(f"more than {MOST_ASKED} characters of texts with an interpolation ${{…}}", where=where)
    from omegaconf import OmegaConf
    from omegaconf.errors import GrammarParseError, OmegaConfBaseException

    for node in asking.values():
        shown = printable(node.value, 200)
        if _inside(node.value, ":"):
            # Resolvers run code and read the environment; a recipe that came from elsewhere must do neither. An escaped
            # ${a:b} is refused as well: better too much than too little.
            problem, hint = "calls a resolver", "a recipe may refer only to its own keys, as in ${trainer.max_steps}"
            raise UserError(f'"{shown}" {problem}', where=str(node.origin), hint=hint)
        if _inside(_ESCAPED.sub("", node.value), "${"):
            problem = "holds an interpolation inside another"
            raise UserError(f'"{shown}" {problem}', where=str(node.origin), hint="write out the inner one")
        try:
            OmegaConf.create([node.value])
        except GrammarParseError as error:
            problem, hint = "is a broken interpolation", r"write ${trainer.max_steps}, and a plain ${ as \${"
            raise UserError(f'"{shown}" {problem}', where=str(node.origin), hint=hint) from error
    _check_size(root, asking)
    tree = OmegaConf.create(root.plain())

    def resolve(path: Path, node: Node) -> Any:
        try:
            value: Any = tree
            for key in path:
                value = value[key]
            return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except (OmegaConfBaseException, RecursionError) as error:
            reason = (str(error).splitlines() or ["?"])[0]
            problem = f'cannot resolve "{printable(node.value, 200)}": {printable(reason, 300)}'
            raise UserError(problem, where=str(node.origin), hint=_meant(node.value, root)) from error

    def rebuild(node: Node, path: Path) -> Node:
        if path in asking:
            found = as_nodes(resolve(path, node), node.origin)
            return Node(found.value, node.origin, found.value if isinstance(found.value, str) else None)
        if isinstance(node.value, dict):
            entries = {key: rebuild(child, (*path, key)) for key, child in node.value.items()}
            return Node(entries, node.origin, node.text)
        if isinstance(node.value, list):
            items = [rebuild(child, (*path, index)) for index, child in enumerate(node.value)]
            return Node(items, node.origin, node.text)
        return node

    resolved = rebuild(root, ())
    _check_depth(resolved)
    return resolved


def _check_depth(root: Node) -> None:
    """UserError if interpolations made a tree that is deeper than a file may be."""
    level = [root]
    for _ in range(DEEPEST):
        children = [node.value.values() if isinstance(node.value, dict) else node.value for node in level]
        level = [child for nodes in children for child in nodes if isinstance(child.value, (dict, list))]
    if level:
        problem = f"more than {DEEPEST} mappings and lists inside each other"
        raise UserError(problem, where=str(level[0].origin))


def _check_size(root: Node, asking: dict[Path, Node]) -> None:
    """UserError if what the interpolations stand for is long: each may hold others several times. Nothing is resolved
    for it; what is unknown or stands for itself is left to who resolves."""
    known: dict[Path, int] = {}

    def size(path: Path, chain: tuple[Path, ...]) -> int:
        """Of what stands at a path, or above it where an interpolation stands for that."""
        node = root
        for length, key in enumerate(path):
            if path[:length] in asking:
                return size(path[:length], chain)
            inside: Any = node.value
            listed = isinstance(inside, list) and isinstance(key, int) and key < len(inside)
            if not (listed or (isinstance(inside, dict) and key in inside)):
                return 0
            node = inside[key]
        if path in known or path in chain:
            return known.get(path, 0)
        if len(chain) > LONGEST_CHAIN:
            problem = f"more than {LONGEST_CHAIN} interpolations that stand for each other"
            raise UserError(problem, where=str(node.origin))
        chain = (*chain, path)
        if path in asking:
            total = len(node.value) + sum(size(_target(path, name), chain) for name in _names(node.value))
        elif isinstance(node.value, (dict, list)):
            keys = node.value if isinstance(node.value, dict) else range(len(node.value))
            total = 1 + sum(size((*path, key), chain[:-1]) for key in keys)
        else:
            total = len(node.value) if isinstance(node.value, str) else 1
        if total > MOST_RESOLVED:
            problem = f"interpolations stand for more than {MOST_RESOLVED} characters"
            raise UserError(problem, where=str(node.origin))
        known[path] = total
        return total

    if sum(size(path, ()) for path in asking) > MOST_RESOLVED:
        where = str(next(iter(asking.values())).origin)
        raise UserError(f"interpolations stand for more than {MOST_RESOLVED} characters", where=where)


def _names(text: str) -> list[str]:
    return re.findall(r"\$\{([^${}]*)\}", text)


def _target(path: Path, name: str) -> Path:
    """The path of `name` in the text at `path`: "a.b[1]", or ".c" for a neighbour, "..c" one level up."""
    name = name.strip()
    keys: list[str | int] = [
        int(key) if key.isdecimal() and len(key) < 10 else key for key in re.findall(r"[^.\[\]]+", name)
    ]
    dots = len(name) - len(name.lstrip("."))
    return (*path[: max(0, len(path) - dots)], *keys) if dots else tuple(keys)


def _meant(text: str, root: Node) -> str | None:
    """A hint if the text refers to a key that the recipe does not write."""
    written = [".".join(map(str, path)) for path, _ in root.walk()]
    unknown = [name for name in re.findall(r"\$\{([^${}.][^${}]*)\}", text) if name not in written]
    if not unknown:
        return None
    return did_you_mean(unknown[0], written) or "only keys that are written in the recipe can be referred to"


_ESCAPED = re.compile(r"(?<!\\)(?:\\\\)*\\\$\{")


def _inside(text: str, wanted: str) -> bool:
    """Whether `wanted` stands inside `${…}`; escapes are not honoured."""
    depth = 0
    for token in re.findall(r"\$\{|\}|:", text):
        if token == wanted and depth:
            return True
        depth = max(0, depth + {"${": 1, "}": -1, ":": 0}[token])
    return False
