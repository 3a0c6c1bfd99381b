"""The plugins that are installed, and their settings. Nothing here imports a plugin itself, only its settings.

A package lists what it brings as entry points of the group `t2x`, name → module with hooks, and should list the
settings of each as well, `t2x.settings`, name → dataclass, in a module that imports nothing heavy. The name is that of
the task, the data source, the codec or the text encoder.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import traceback
from dataclasses import dataclass
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any, NoReturn

from t2x_core.errors import UserError, did_you_mean
from t2x_core.recipe import BLOCKS, Kind

GROUP, SETTINGS = "t2x", "t2x.settings"


@dataclass(frozen=True)
class Plugin:
    """One entry point of the group `t2x`."""

    point: EntryPoint
    settings_point: EntryPoint | None = None
    strays: tuple[str, ...] = ()
    """Names under which its package lists settings, but nothing that these are the settings of."""

    @property
    def name(self) -> str:
        """Of the task, data source, codec or text encoder."""
        return self.point.name

    @property
    def package(self) -> str:
        """Name and version of the package that it belongs to."""
        return f"{self.point.dist.name} {self.point.dist.version}" if self.point.dist else self.point.module

    @property
    def file(self) -> Path | None:
        """Where its module is, or None if there is no such file."""
        top, *inner = self.point.module.split(".")
        spec = importlib.util.find_spec(top)
        if spec is None:
            return None
        if not inner:
            return Path(spec.origin) if spec.origin else None
        for folder in spec.submodule_search_locations or ():
            module = Path(folder, *inner)
            for file in (module.with_suffix(".py"), module / "__init__.py"):
                if file.is_file():
                    return file
        return None

    def refuse(self, problem: str, hint: str | None = None, where: str | None = None) -> UserError:
        """The UserError that names this plugin and its package."""
        return UserError(f'plugin "{self.name}" of {self.package}: {problem}', hint=hint, where=where)

    def check_version(self) -> None:
        """UserError if its package says, in its requirements, that it is made for another version of t2x."""
        from packaging.requirements import InvalidRequirement, Requirement
        from packaging.utils import canonicalize_name
        from packaging.version import InvalidVersion, Version

        try:
            ours = Version(Version(version("t2x")).base_version)  # a development version counts as the one it becomes
        except (PackageNotFoundError, InvalidVersion):
            return
        for text in (self.point.dist and self.point.dist.requires) or ():
            try:
                needed = Requirement(text)
            except InvalidRequirement:  # of something that is not for us to judge
                continue
            if canonicalize_name(needed.name) != "t2x" or (needed.marker and not needed.marker.evaluate()):
                continue
            if not needed.specifier.contains(ours, prereleases=True):
                hint = "install a version of the plugin that is made for this t2x, or the t2x that it needs"
                raise self.refuse(f"is made for t2x {needed.specifier}; this is t2x {ours}", hint)

    def load(self, point: EntryPoint) -> Any:
        """What one of its entry points names. Whatever goes wrong is a UserError that names the package."""
        try:
            found = importlib.import_module(point.module)
        except (Exception, SystemExit) as error:
            missing = isinstance(error, ModuleNotFoundError) and f"{point.module}.".startswith(f"{error.name}.")
            if missing:
                self._refuse_point(point, f'there is no module "{point.module}"')
            hint = "repair it, or uninstall the package"
            raise self.refuse(f"cannot be imported: {describe(error)}", hint, place(error, point.module)) from error
        for attribute in point.attr.split(".") if point.attr else ():
            try:
                found = getattr(found, attribute)
            except AttributeError:
                self._refuse_point(point, f'"{point.module}" has no "{attribute}"', did_you_mean(attribute, dir(found)))
        return found

    def _refuse_point(self, point: EntryPoint, problem: str, hint: str = "") -> NoReturn:
        line = f'{point.name} = "{point.value}"'
        raise self.refuse(f"{problem}, which its entry point names ({point.group}: {line})", hint or None) from None

    def settings(self) -> type | None:
        """The dataclass of its block of a recipe; None if the package does not list it."""
        self.check_version()
        if self.settings_point is None:
            if self.strays:
                hint = did_you_mean(self.name, self.strays) and f'name them "{self.name}"'
                raise self.refuse(f'its package lists settings for "{self.strays[0]}", which it does not bring', hint)
            return None
        schema = self.load(self.settings_point)
        self.check_settings(schema)
        return schema

    def check_settings(self, schema: Any) -> Kind:
        """What kind of thing these are the settings of; UserError if of none."""
        shown = getattr(schema, "__qualname__", repr(schema))
        kinds = [kind for kind, block in BLOCKS.items() if isinstance(schema, type) and issubclass(schema, block)]
        if not kinds:
            bases = ", ".join(block.__name__ for block in BLOCKS.values())
            raise self.refuse(f"its settings {shown} must be a class that derives from one of {bases}")
        parameters = vars(schema).get("__dataclass_params__")  # vars: not that of a base
        if parameters is None or not parameters.frozen:
            hint = "write @dataclass(frozen=True, kw_only=True) above it"
            raise self.refuse(f"its settings {shown} must be a frozen dataclass", hint)
        if abstract := ", ".join(sorted(schema.__abstractmethods__)) if hasattr(schema, "__abstractmethods__") else "":
            raise self.refuse(f"its settings {shown} do not implement {abstract}")
        return kinds[0]

    def kind(self) -> Kind | None:
        """What it brings, by its settings."""
        schema = self.settings()
        return None if schema is None else self.check_settings(schema)


def installed() -> list[Plugin]:
    """All plugins, by name; a name that two packages bring is there twice."""
    everything = entry_points()
    points = {_owner(point): point for point in everything.select(group=GROUP)}
    listed = {_owner(point): point for point in everything.select(group=SETTINGS)}
    strays = sorted(listed.keys() - points.keys())
    plugins = [
        Plugin(point, listed.get((package, name)), tuple(stray for owner, stray in strays if owner == package))
        for (package, name), point in points.items()
    ]
    return sorted(plugins, key=lambda plugin: (plugin.name, plugin.package))


def find(kind: Kind, name: str) -> Plugin:
    """The plugin of this name; UserError if there is none or more than one, or if it is known to be of another kind."""
    everything = installed()
    found = [plugin for plugin in everything if plugin.name == name]
    if len(found) > 1:
        raise twice(found)
    if found:
        if (own := found[0].kind()) not in (None, kind):
            raise UserError(f'"{name}" is a {_word(own)}, not a {_word(kind)}', hint=_choice(kind, name, everything))
        return found[0]
    raise UserError(f'no installed plugin brings the {_word(kind)} "{name}"', hint=_choice(kind, name, everything))


def settings(kind: Kind, name: str) -> type | None:
    """The settings of the plugin of this name, found without importing it; None if its package does not list them."""
    return find(kind, name).settings()


def named(name: str) -> Plugin:
    """The installed plugin that somebody typed the name of; UserError if there is none, or several."""
    everything = installed()
    found = [plugin for plugin in everything if plugin.name == name]
    if not found:
        names = [plugin.name for plugin in everything]
        hint = did_you_mean(name, names) or f"there are: {', '.join(names)}"
        raise UserError(f'no installed plugin brings "{name}"', where="command line", hint=hint)
    if len(found) > 1:
        raise twice(found)
    return found[0]


def twice(plugins: list[Plugin]) -> UserError:
    """The UserError for several plugins of one name."""
    owners = " and ".join(plugin.package for plugin in plugins)
    return UserError(f'two installed packages bring "{plugins[0].name}": {owners}', hint="uninstall one")


def describe(error: BaseException) -> str:
    """ "NameError: name 'x' is not defined"."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def place(error: BaseException, module: str, code: Any = None) -> str | None:
    """The innermost "file:line" of the package that `module` is of, on the way to where the error was raised; else
    where that of `code` is defined which the package has (see `definition`)."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    own = _files(module)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(own)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else definition(code, module)


def definition(code: Any, module: str) -> str | None:
    """The "file:line" where a function, a class, or the first of several, is defined in the package of `module`."""
    own = _files(module)
    for one in code if isinstance(code, list | tuple) else [code]:
        while isinstance(one, functools.partial):
            one = one.func
        if not callable(one):
            continue
        if not inspect.isroutine(one) and not isinstance(one, type):  # an object that can be called
            one = type(one)
        try:
            one = inspect.unwrap(one)
            file = inspect.getsourcefile(one)
            if file is not None and file.startswith(own):
                return f"{file}:{inspect.getsourcelines(one)[1]}"
        except (TypeError, OSError):  # built in, or made without a file
            continue
    return None


def _files(module: str) -> tuple[str, ...]:
    """How the names of all files of the package of `module` begin."""
    spec = importlib.util.find_spec(module.partition(".")[0])
    if spec is None:
        return ()
    folders = spec.submodule_search_locations
    return tuple(f"{folder}{os.sep}" for folder in folders) if folders else (spec.origin or "",)


def _owner(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name if point.dist else "", point.name)


def _choice(kind: Kind, name: str, plugins: list[Plugin]) -> str:
    names = sorted({plugin.name for plugin in plugins if _may_be(plugin, kind)})
    return did_you_mean(name, names) or (f"there are: {', '.join(names)}" if names else "none is installed")


def _may_be(plugin: Plugin, kind: Kind) -> bool:
    try:
        return plugin.kind() in (None, kind)
    except UserError:
        return False


def _word(kind: Kind | None) -> str:
    return str(kind).replace("_", " ")
