"""A composed recipe → a checked `Recipe`. The core's blocks are checked before any plugin is asked for its schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from t2x_core.errors import UserError
from t2x_core.recipe.check import check, check_fields, construct, mapping, missing
from t2x_core.recipe.components import ComponentConfig, Kind, SourcedTaskConfig
from t2x_core.recipe.compose import Composed
from t2x_core.recipe.geometry import check_geometry
from t2x_core.recipe.schema import Recipe
from t2x_core.recipe.source import Node

SchemaOf = Callable[[Kind, str], type | None]
"""(kind, name) → dataclass of that block; None if it is not known yet. Raises UserError for what nobody provides."""


def check_core(composed: Composed) -> dict[str, Any]:
    """The checked fields of `Recipe` that need no plugin. Raises UserError for the first mistake in them, or if a task,
    the codec or a text encoder is not even named."""
    root = composed.root
    values = check_fields(Recipe, root, "", later=("tasks", "codec", "text_encoders"))
    _tasks(root)
    if _component(root, "codec") is None:
        missing(Recipe, "codec", "", root.value.get("codec", root).origin)
    _text_encoders(root)
    return values


def check_recipe(composed: Composed, schema_of: SchemaOf) -> Recipe | None:
    """The recipe as dataclasses; None if the schema of some block is not known yet. UserError is the first mistake.

    In this order, because importing plugins takes seconds: all that the core knows; whether what the blocks name is
    there; the blocks of codec, text encoder and tasks; what only shows in several blocks together.
    """
    values, root = check_core(composed), composed.root
    tasks = _tasks(root)
    schemas = {name: _ask(schema_of, "task", name, block) for name, block in tasks.items()}
    encoders = _text_encoders(root)
    if (codec := _component(root, "codec")) is not None:
        block, name = codec
        codec_schema = _ask(schema_of, "codec", name.value, name)
    of_encoders = {key: _ask(schema_of, "text_encoder", name.value, name) for key, (_, name) in encoders.items()}
    if codec_schema is not None:
        values["codec"] = check(codec_schema, block, "codec")
    values["text_encoders"] = {
        key: check(schema, encoders[key][0], f"text_encoders.{key}") for key, schema in of_encoders.items() if schema
    }
    blocks = {name: s and check_block(s, tasks[name], f"tasks.{name}", schema_of) for name, s in schemas.items()}
    values["tasks"] = blocks
    if not (all(blocks.values()) and codec_schema and all(of_encoders.values())):
        return None
    recipe = construct(Recipe, values, root, "")
    with composed.error_location(""):
        check_geometry(recipe, recipe.codec.spatial_factor, recipe.codec.frame_factor)
    return recipe


def check_block(schema: type, block: Node, path: str, schema_of: SchemaOf) -> Any:
    """The checked block of a component, with the data source that a task's names; None if the schema of the source is
    not known yet."""
    if not issubclass(schema, SourcedTaskConfig):
        return check(schema, block, path)
    values, where = check_fields(schema, block, path, later=("data",)), f"{path}.data"
    data = block.value.get("data")
    if data is None or data.value is None:
        missing(schema, "data", path, (data or block).origin)
    named = {name: node for name, node in mapping(data, where).items() if node.value is not None}
    if not named:
        hint = "name one, with {} for its defaults; `t2x plugins` lists them"
        raise UserError(f"{where} names no source", where=str(data.origin), hint=hint)
    (name, node), *others = named.items()
    if others:
        hint = f"write {name}: null, or {others[0][0]}: null"
        raise UserError(f"{where}: there are both {name} and {others[0][0]}", where=str(data.origin), hint=hint)
    source = _ask(schema_of, "source", name, node)
    if source is None:
        return None
    if not issubclass(source, wanted := schema.source_class):
        problem = (
            f'{where}: the source "{name}" does not fit the task, whose sources have settings of {wanted.__name__}'
        )
        raise UserError(problem, where=str(node.origin), hint="`t2x plugins` lists the sources")
    values["data"] = {name: check(source, node, f"{where}.{name}")}
    return construct(schema, values, block, path)


def _tasks(root: Node) -> dict[str, Node]:
    node = root.value.get("tasks")
    if node is None or node.value is None:
        missing(Recipe, "tasks", "", (node or root).origin)
    entries = mapping(node, "tasks")
    named = {name: block for name, block in entries.items() if block.value is not None}
    if not named:
        hint = f"for its defaults write {next(iter(entries))}: {{}}" if entries else None
        raise UserError("tasks has no entry that is not null", where=str(node.origin), hint=hint)
    return named


def _text_encoders(root: Node) -> dict[str, tuple[Node, Node]]:
    """Name in the recipe → the block of a text encoder, and the node of its registered name or the key."""
    node = root.value.get("text_encoders")
    if node is None or node.value is None:
        return {}
    found = {}
    for key, block in mapping(node, "text_encoders").items():
        if block.value is None:
            continue
        entries = mapping(block, f"text_encoders.{key}")
        name = entries.get("name") or Node(key, block.origin)
        check(str, name, f"text_encoders.{key}.name")
        found[key] = Node({**entries, "name": name}, block.origin), name
    return found


def _component(root: Node, kind: str) -> tuple[Node, Node] | None:
    """The block and the node of its name, or None without such a block."""
    block = root.value.get(kind)
    if block is None or block.value is None:
        return None
    name = mapping(block, kind).get("name")
    if name is None or name.value is None:
        missing(ComponentConfig, "name", kind, block.origin)
    check(str, name, f"{kind}.name")
    return block, name


def _ask(schema_of: SchemaOf, kind: Kind, name: str, node: Node) -> type | None:
    try:
        return schema_of(kind, name)
    except UserError as error:
        raise UserError(error.message, where=error.where or str(node.origin), hint=error.hint) from error
