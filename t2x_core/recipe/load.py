"""A recipe's name → a checked `Recipe`. The core's blocks are checked before any plugin is asked for its schema."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from t2x_core.errors import UserError
from t2x_core.recipe.check import check, check_fields, construct, mapping, missing
from t2x_core.recipe.compose import Composed, compose
from t2x_core.recipe.schema import ComponentConfig, Recipe
from t2x_core.recipe.source import Node

TaskSchema = Callable[[str], type]
"""Task name → dataclass of its block. Raises KeyError(name) or UserError for a task that nobody provides."""
ComponentSchema = Callable[[str, str], type]
"""("codec" or "text_encoder", name) → dataclass of that block. Raises like TaskSchema."""


def load_recipe(
    name_or_path: str | Path, overrides: Sequence[str], task_schema: TaskSchema, component_schema: ComponentSchema
) -> Recipe:
    """Composes and checks a recipe: `check_recipe(compose(name_or_path, overrides), …)`. Raises UserError."""
    return check_recipe(compose(name_or_path, overrides), task_schema, component_schema)


def check_core(composed: Composed) -> dict[str, Any]:
    """The checked fields of `Recipe` that need no plugin. Raises UserError for the first mistake in them, or if a task,
    the codec or a text encoder is not even named."""
    root = composed.root
    values = check_fields(Recipe, root, "", later=("tasks", "codec", "text_encoder"))
    _tasks(root)
    if _component(root, "codec") is None:
        missing(Recipe, "codec", "", root.value.get("codec", root).origin)
    _component(root, "text_encoder")
    return values


def check_recipe(composed: Composed, task_schema: TaskSchema, component_schema: ComponentSchema) -> Recipe:
    """The recipe as dataclasses. Raises UserError for the first mistake.

    In this order, because importing plugins takes seconds: all that the core knows; the names of the tasks, each a call
    of `task_schema`, which may also bring in the codecs and text encoders of a plugin; codec and text encoder; the
    blocks of the tasks.
    """
    values = check_core(composed)
    root = composed.root
    tasks = _tasks(root)
    schemas = {name: _ask(task_schema, "task", name, block) for name, block in tasks.items()}
    for kind in ("codec", "text_encoder"):
        if (component := _component(root, kind)) is not None:
            block, name = component
            schema = _ask(partial(component_schema, kind), kind.replace("_", " "), name.value, name)
            values[kind] = check(schema, block, kind)
    values["tasks"] = {name: check(schemas[name], block, f"tasks.{name}") for name, block in tasks.items()}
    return construct(Recipe, values, root.origin, "")


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


def _ask(schema_of: Callable[[str], type], kind: str, name: str, node: Node) -> type:
    try:
        return schema_of(name)
    except UserError as error:
        raise UserError(error.message, where=error.where or str(node.origin), hint=error.hint) from error
    except KeyError as error:
        if error.args != (name,):
            raise
        raise UserError(f'unknown {kind} "{name}"', where=str(node.origin)) from error
