"""What a plugin may register (hooks, for pluggy), and the registry that finds it.

A plugin is an entry point of the group `t2x`; its name is the name of the task (or codec, or text encoder) that a
recipe uses. Only entry points that a recipe names are imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint
from typing import Any, Literal, TypeVar

import pluggy

from t2x_core.encoders import CODECS, TEXT_ENCODERS
from t2x_core.entry_points import GROUP, installed, package
from t2x_core.errors import UserError, did_you_mean
from t2x_core.interfaces import Component, TaskPlugin

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)
NamedT = TypeVar("NamedT", TaskPlugin, Component)


class Hooks:
    """The hooks. Each is called once, right after the plugin was imported; several answers are joined."""

    @hookspec
    def t2x_register_tasks(self) -> Sequence[TaskPlugin[Any]]:  # type: ignore[empty-body]
        """Tasks that the plugin brings; two of the same name are an error."""

    @hookspec
    def t2x_register_codecs(self) -> Sequence[Component]:  # type: ignore[empty-body]
        """Latent codecs that the plugin brings; two of the same name are an error."""

    @hookspec
    def t2x_register_text_encoders(self) -> Sequence[Component]:  # type: ignore[empty-body]
        """Text encoders that the plugin brings; two of the same name are an error."""


class Registry:
    """The plugins of one recipe: each is imported when it is first asked for."""

    def __init__(self) -> None:
        self._points = installed()
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(Hooks)

    def task(self, name: str) -> TaskPlugin[Any]:
        """The task of this name; UserError if no installed plugin brings it."""
        return self._find("task", name, (), "t2x_register_tasks")

    def component(self, kind: Literal["codec", "text_encoder"], name: str) -> Component:
        """The codec or text encoder of this name; UserError if there is none."""
        builtin = CODECS if kind == "codec" else TEXT_ENCODERS
        return self._find(kind.replace("_", " "), name, builtin, f"t2x_register_{kind}s")

    def _find(self, kind: str, name: str, builtin: Iterable[NamedT], hook: str) -> NamedT:
        if name in self._points and not self._manager.has_plugin(name):
            self._import(self._points[name])
        known = list(builtin)
        for answer in getattr(self._manager.hook, hook)():
            known += answer
        named = [one for one in known if one.name == name]
        if len(named) == 1:
            return named[0]
        if named:
            raise UserError(f'{len(named)} plugins register the {kind} "{name}"')
        names = sorted({one.name for one in known} | (set(self._points) if kind == "task" else set()))
        raise UserError(
            f'no installed plugin brings the {kind} "{name}"',
            hint=did_you_mean(name, names) or f"there are: {', '.join(names)}",
        )

    def _import(self, point: EntryPoint) -> None:
        try:
            plugin = point.load()
        except Exception as error:
            raise UserError(f'plugin "{point.name}" of {package(point)} cannot be imported: {error}') from error
        try:
            self._manager.register(plugin, point.name)
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise UserError(f'plugin "{point.name}" of {package(point)}: {error}') from error
