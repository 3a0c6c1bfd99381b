"""What a plugin may register (hooks, for pluggy), and the registry that imports it.

A plugin is an entry point of the group `t2x`; its name is the name of the task (or data source, codec, text encoder)
that a recipe uses. Only entry points that a recipe names are imported.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import pluggy

from t2x_core.entry_points import GROUP, Plugin, describe, find, place, settings
from t2x_core.interfaces import Component, DataSource, LatentCodec, Task, TextEncoder
from t2x_core.recipe import Kind

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Hooks:
    """The hooks. Each is called once, right after the plugin was imported."""

    @hookspec
    def t2x_register(self) -> Sequence[Component]:  # type: ignore[empty-body]
        """Tasks, data sources, codecs and text encoders of the plugin, each under the name of an entry point."""


HOOK = "t2x_register"
COMPONENT = "return entries such as Component(name, settings class, class)"
BASES: dict[Kind, type] = {"task": Task, "source": DataSource, "codec": LatentCodec, "text_encoder": TextEncoder}


class Registry:
    """The plugins of one recipe: each is imported when it is first asked for."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(Hooks)
        self._known: dict[tuple[Kind, str], tuple[Plugin, Component]] = {}

    def component(self, kind: Kind, name: str) -> Component:
        """The component of this name; UserError if there is none, or if it is not right."""
        return self._get(kind, name)[1]

    def owner(self, kind: Kind, name: str) -> Plugin:
        """The plugin that brings it; the same errors."""
        return self._get(kind, name)[0]

    def schema(self, kind: Kind, name: str) -> type:
        """The dataclass of its block of a recipe. The plugin is only imported if its package does not list it."""
        return settings(kind, name) or self.component(kind, name).config_class

    def _get(self, kind: Kind, name: str) -> tuple[Plugin, Component]:
        if (kind, name) not in self._known:
            plugin = find(kind, name)
            module = plugin.load(plugin.point)
            self._register(plugin, module)
            self._known[kind, name] = plugin, _named(plugin, kind, self._answers(plugin, module))
        return self._known[kind, name]

    def _register(self, plugin: Plugin, module: Any) -> None:
        if self._manager.is_registered(module):  # it brings something else, too
            return
        if inspect.isclass(module):
            raise plugin.refuse(f"its entry point names the class {module.__name__}", "name the module with the hooks")
        for name, attribute in inspect.getmembers(module, inspect.isroutine):
            marked = self._manager.parse_hookimpl_opts(module, name)
            if marked and name != HOOK:
                raise plugin.refuse(f'there is no hook "{name}"', f"the hook is {HOOK}")
            if not marked and name == HOOK and attribute.__module__ == getattr(module, "__name__", None):
                raise plugin.refuse(f"{name} is not marked as a hook", "write @hookimpl above it")
        try:
            self._manager.register(module, plugin.name)
        except pluggy.PluginValidationError as error:
            raise plugin.refuse(str(error).splitlines()[-1]) from error

    def _answers(self, plugin: Plugin, module: Any) -> list[Any]:
        """What its hook returns, which is a list."""
        others = [other for other in self._manager.get_plugins() if other is not module]
        caller = self._manager.subset_hook_caller(HOOK, others)
        if not caller.get_hookimpls():
            raise plugin.refuse(f"has no hook {HOOK}, so it brings nothing", "write it, in its module")
        try:
            (answer,) = caller() or [None]
        except (Exception, SystemExit) as error:
            raise plugin.refuse(f"{HOOK} failed: {describe(error)}", where=place(error, plugin.point.module)) from error
        if not isinstance(answer, Sequence) or isinstance(answer, str):
            raise plugin.refuse(f"{HOOK} must return a list, not {_shown(answer)}")
        return list(answer)


def _named(plugin: Plugin, kind: Kind, answers: Sequence[Any]) -> Component:
    """That of the answers which has the plugin's name, once all of them are seen to be right."""
    for one in answers:
        if not isinstance(one, Component):
            shown = one.__name__ if isinstance(one, type) else _shown(one)
            raise plugin.refuse(f"{HOOK} returns {shown}, which is no Component", COMPONENT)
        if not isinstance(one.name, str) or not callable(one.build):
            raise plugin.refuse(f"{HOOK} returns a Component without a name or a class to build", COMPONENT)
    found = [one for one in answers if one.name == plugin.name]
    if len(found) != 1:
        brought = ", ".join(f'"{one.name}"' for one in answers) or "nothing"
        hint = "the name of the entry point must be the name of what it brings, once"
        raise plugin.refuse(f"{HOOK} brings {brought}", hint)
    schema = found[0].config_class
    if plugin.check_settings(schema) != kind:
        raise plugin.refuse(f"its config_class {schema.__name__} is not one of a {kind.replace('_', ' ')}")
    listed = plugin.settings()
    if listed is not None and listed is not schema:
        first, second = (f"{schema.__module__}.{schema.__name__}" for schema in (listed, schema))
        problem = f"it names two different settings: {first} in t2x.settings, {second} as config_class"
        raise plugin.refuse(problem, "name one class in both places")
    _check_class(plugin, kind, found[0].build)
    return found[0]


def _check_class(plugin: Plugin, kind: Kind, build: Any) -> None:
    """UserError if the class that is built from the settings is of another kind, or lacks a method."""
    if not inspect.isclass(build):
        return
    wanted = BASES[kind]
    if not issubclass(build, wanted):
        raise plugin.refuse(f"{build.__name__} is no {wanted.__name__}", f"derive it from {wanted.__name__}")
    if lacking := sorted(getattr(build, "__abstractmethods__", ())):
        raise plugin.refuse(f"{build.__name__} does not implement {', '.join(lacking)}")


def _shown(value: Any) -> str:
    return "None" if value is None else type(value).__name__
