"""What a plugin may register (hooks, for pluggy), and the registry that imports it.

A plugin is an entry point of the group `t2x`; its name is the name of the task (or codec, or text encoder) that a
recipe uses. Only entry points that a recipe names are imported.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import pluggy

from t2x_core.entry_points import GROUP, Plugin, describe, find, place, settings
from t2x_core.errors import did_you_mean
from t2x_core.interfaces import Component, TaskPlugin
from t2x_core.recipe import Kind

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Hooks:
    """The hooks. Each is called once, right after the plugin was imported."""

    @hookspec
    def t2x_register_tasks(self) -> Sequence[TaskPlugin[Any]]:  # type: ignore[empty-body]
        """Tasks that the plugin brings, each under the name of an entry point."""

    @hookspec
    def t2x_register_codecs(self) -> Sequence[Component]:  # type: ignore[empty-body]
        """Latent codecs that the plugin brings, each under the name of an entry point."""

    @hookspec
    def t2x_register_text_encoders(self) -> Sequence[Component]:  # type: ignore[empty-body]
        """Text encoders that the plugin brings, each under the name of an entry point."""


HOOKS: dict[Kind, str] = {kind: f"t2x_register_{kind}s" for kind in ("task", "codec", "text_encoder")}


class Registry:
    """The plugins of one recipe: each is imported when it is first asked for."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(Hooks)
        self._known: dict[tuple[Kind, str], Any] = {}

    def task(self, name: str) -> TaskPlugin[Any]:
        """The task of this name; UserError if no installed plugin brings it, or if that is not right."""
        return self._get("task", name)

    def component(self, kind: Literal["codec", "text_encoder"], name: str) -> Component:
        """The codec or text encoder of this name; UserError if there is none, or if it is not right."""
        return self._get(kind, name)

    def schema(self, kind: Kind, name: str) -> type:
        """The dataclass of its block of a recipe. The plugin is only imported if its package does not list it."""
        return settings(kind, name) or self._get(kind, name).config_class

    def _get(self, kind: Kind, name: str) -> Any:
        if (kind, name) not in self._known:
            plugin = find(kind, name)
            module = plugin.load(plugin.point)
            self._register(plugin, module)
            self._known[kind, name] = _named(plugin, kind, self._answers(plugin, kind, module))
        return self._known[kind, name]

    def _register(self, plugin: Plugin, module: Any) -> None:
        if self._manager.is_registered(module):  # it brings something else, too
            return
        if inspect.isclass(module):
            raise plugin.refuse(f"its entry point names the class {module.__name__}", "name the module with the hooks")
        for name, attribute in inspect.getmembers(module, inspect.isroutine):
            marked = self._manager.parse_hookimpl_opts(module, name)
            if marked and name not in HOOKS.values():
                raise plugin.refuse(f'there is no hook "{name}"', did_you_mean(name, HOOKS.values()) or _hooks())
            if not marked and name in HOOKS.values() and attribute.__module__ == getattr(module, "__name__", None):
                raise plugin.refuse(f"{name} is not marked as a hook", "write @hookimpl above it")
        try:
            self._manager.register(module, plugin.name)
        except pluggy.PluginValidationError as error:
            raise plugin.refuse(str(error).splitlines()[-1]) from error

    def _answers(self, plugin: Plugin, kind: Kind, module: Any) -> list[Any]:
        """What its hook returns, which is a list."""
        hook = HOOKS[kind]
        others = [other for other in self._manager.get_plugins() if other is not module]
        caller = self._manager.subset_hook_caller(hook, others)
        if not caller.get_hookimpls():
            raise plugin.refuse(
                f"has no hook {hook}, so it brings no {kind.replace('_', ' ')}", "write it, in its module"
            )
        try:
            (answer,) = caller() or [None]
        except (Exception, SystemExit) as error:
            raise plugin.refuse(f"{hook} failed: {describe(error)}", where=place(error, plugin.point.module)) from error
        if not isinstance(answer, Sequence) or isinstance(answer, str):
            raise plugin.refuse(f"{hook} must return a list, not {_shown(answer)}")
        return list(answer)


def _named(plugin: Plugin, kind: Kind, answers: Sequence[Any]) -> Any:
    """That of the answers which has the plugin's name, once all of them are seen to be right."""
    wanted: type = TaskPlugin if kind == "task" else Component
    for one in answers:
        if inspect.isclass(one):
            raise plugin.refuse(
                f"{HOOKS[kind]} returns the class {one.__name__}", f"return an instance: {one.__name__}()"
            )
        if not isinstance(one, wanted):
            raise plugin.refuse(f"{HOOKS[kind]} returns {_shown(one)}, which is no {wanted.__name__}")
        if not isinstance(getattr(one, "name", None), str):
            raise plugin.refuse(f"{type(one).__name__} has no name", f'write name = "{plugin.name}" in the class')
    found = [one for one in answers if one.name == plugin.name]
    if len(found) != 1:
        brought = ", ".join(f'"{one.name}"' for one in answers) or "nothing"
        hint = "the name of the entry point must be the name of what it brings, once"
        raise plugin.refuse(f"{HOOKS[kind]} brings {brought}", hint)
    schema = getattr(found[0], "config_class", None)
    if schema is None:
        raise plugin.refuse(f"{type(found[0]).__name__} has no config_class")
    if plugin.check_settings(schema) != kind:
        raise plugin.refuse(f"its config_class {schema.__name__} is not one of a {kind.replace('_', ' ')}")
    listed = plugin.settings()
    if listed is not None and listed is not schema:
        first, second = (f"{schema.__module__}.{schema.__name__}" for schema in (listed, schema))
        problem = f"it names two different settings: {first} in t2x.settings, {second} as config_class"
        raise plugin.refuse(problem, "name one class in both places")
    return found[0]


def _shown(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _hooks() -> str:
    return f"the hooks are {', '.join(HOOKS.values())}"
