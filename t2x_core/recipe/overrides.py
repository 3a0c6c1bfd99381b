"""Settings of the command line, `a.b=value`.

One rule says what is written: a setting that is a text or a path takes it letter by letter, any other takes it as YAML,
as a recipe would. Two things are not taken letter by letter: `null`, which goes back to the default, and quotes around
all of it, which are taken off as YAML does. Which settings are text is known when they are checked, so a node has both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t2x_core.errors import UserError
from t2x_core.recipe.renamed import rename
from t2x_core.recipe.source import COMMAND_LINE, Node, Origin
from t2x_core.recipe.yaml_tree import DEEPEST, parse_value
from t2x_core.terminal import printable


class Written(str):
    """A value as it stands behind the `=`, for `with_values`; other values are taken as they are."""

    __slots__ = ()


def override(root: Node, text: str) -> tuple[Node, list[str]]:
    """The tree with one `a.b=c` applied on top, and a line for each key that was renamed. Raises UserError."""
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
    elif len(keys) > DEEPEST:
        problem = f"no setting is {len(keys)} levels deep"
    elif not written.strip():
        problem = f"there is no value; {path}=null goes back to the default"
    elif keys[0] == "base":
        problem = "base is set in a recipe file only"
    if problem:
        raise UserError(f'bad override "{printable(text, 200)}"', where=str(COMMAND_LINE), hint=printable(problem, 300))
    value = parse_override(written)
    renamed, notes = rename(_put(Node({}, COMMAND_LINE), keys, value))
    return (merge(root, renamed), notes) if notes else (_put(root, keys, value), [])


def with_values(root: Node, values: Mapping[str, Any]) -> Node:
    """The tree with values at "a.b.c" applied on top."""
    for path, value in values.items():
        node = parse_override(value) if isinstance(value, Written) else as_nodes(value, COMMAND_LINE)
        keys = path.split(".")
        if len(keys) > DEEPEST:
            raise UserError(f"no setting is {len(keys)} levels deep", where=str(COMMAND_LINE))
        root = _put(root, keys, node)
    return root


def parse_override(written: str) -> Node:
    """What stands behind the `=`, as YAML and as text."""
    try:
        value, problem = parse_value(written).value, None
    except UserError as error:
        value, problem = written, error.message
    stripped = written.strip()
    if stripped == "null":
        return Node(None, COMMAND_LINE)
    if stripped[:1] in ("'", '"') and stripped[-1] == stripped[0] and isinstance(value, str) and not problem:
        return Node(value, COMMAND_LINE, text=value)
    if "${" in written and (value is None or isinstance(value, str)):
        value, problem = written, None
    return Node(value, COMMAND_LINE, written, problem)


def merge(base: Node, over: Node) -> Node:
    """Mappings merge, anything else replaces. A null stays in the tree and takes away what was inherited: it means
    None where the schema allows None, and "not set" elsewhere."""
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    merged = dict(base.value)
    for key, child in over.value.items():
        merged[key] = merge(merged[key], child) if key in merged else child
    return Node(merged, over.origin)


def as_nodes(value: Any, origin: Origin) -> Node:
    """Plain containers as nodes that were all written at one place."""
    if isinstance(value, Mapping):
        return Node({key: as_nodes(child, origin) for key, child in value.items()}, origin)
    if isinstance(value, (list, tuple)):
        return Node([as_nodes(child, origin) for child in value], origin)
    return Node(value, origin)


def _put(node: Node, keys: Sequence[str], value: Node) -> Node:
    if not keys:
        return merge(node, value)
    entries = dict(node.value) if isinstance(node.value, dict) else {}
    entries[keys[0]] = _put(entries.get(keys[0], Node(None, COMMAND_LINE)), keys[1:], value)
    return Node(entries, node.origin if isinstance(node.value, dict) else COMMAND_LINE)
