"""What is checked of every plugin: how it registers, and its settings."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from t2x_core.entry_points import SETTINGS
from t2x_core.recipe import BLOCKS, Kind, commented, field_docs
from t2x_core.recipe.json_schema import json_schema
from t2x_core.testing.rig import Rig

HEAVY = ("torch", "lightning", "torchvision", "transformers", "diffusers", "numpy", "PIL")
"""Packages that take long to import, and that settings have no need of."""


class PluginTests:
    """Base of the checks of one plugin. A subclass sets `plugin`."""

    kind: ClassVar[Kind]
    plugin: ClassVar[str] = ""
    """Name of the plugin: that of its entry point."""
    settings: ClassVar[Mapping[str, Any]] = {}
    """Its block of the recipe, as plain values; relative paths are relative to the current folder."""
    recipe: ClassVar[Mapping[str, Any]] = {}
    """Blocks of the recipe that shall differ from the small one of the checks: another codec, say."""
    overrides: ClassVar[Sequence[str]] = ()
    """More settings, as "key=value"."""

    @property
    def rig(self) -> Rig:
        """The plugin in a small recipe; made once for all checks of a class."""
        cls = type(self)
        if "_rig" not in cls.__dict__:
            if not cls.plugin:
                raise TypeError(f'{cls.__name__} checks no plugin: write plugin = "its-name" into the class')
            cls._rig = Rig(cls.kind, cls.plugin, cls.settings, cls.recipe, cls.overrides)
        return cls._rig

    _rig: ClassVar[Rig]

    def test_it_registers(self) -> None:
        """it is installed, registers one component of its name, and implements all that is abstract"""
        _ = self.rig.component

    def test_its_settings_are_listed(self) -> None:
        """its settings are an entry point of their own, so that a mistake is found without importing the plugin"""
        plugin = self.rig.plugin
        if plugin.settings() is None:
            schema = self.rig.schema
            value = f"{schema.__module__}:{schema.__qualname__}"
            raise self.rig.refuse(
                "its settings are not listed",
                f'add to pyproject.toml: [project.entry-points."{SETTINGS}"] {plugin.name} = "{value}"',
            )

    def test_its_settings_are_documented(self) -> None:
        """each setting has a line under it that says what it is, and a type that recipes know"""
        schema, rig = self.rig.schema, self.rig
        for owner in _blocks(schema):
            docs = field_docs(owner)
            if lacking := [f.name for f in dataclasses.fields(owner) if f.init and not docs.get(f.name)]:
                hint = f'write """what it is, and its unit.""" under {lacking[0]}'
                raise rig.refuse(f"{owner.__name__}.{lacking[0]} has no docstring", hint, owner)
        try:
            text = commented(schema)
            json.dumps(json_schema({**{kind: {} for kind in BLOCKS}, self.kind: {rig.name: schema}}))
        except Exception as error:
            hint = "use bool, int, float, str, Path, Literal, list, tuple, dict, frozen dataclasses and unions of these"
            raise rig.refuse(f"its settings cannot be shown: {error}", hint, schema) from error
        assert text or not dataclasses.fields(schema)

    def test_its_settings_are_light(self) -> None:
        """the module of the settings imports nothing heavy"""
        rig = self.rig
        module = rig.schema.__module__
        code = (
            f"import sys, json; import t2x_core.recipe; before = set(sys.modules); import {module}; "
            f"print(json.dumps([name for name in {HEAVY!r} if name in set(sys.modules) - before]))"
        )
        found = json.loads(_python(code))
        if found:
            hint = f"import {found[0]} in the module of the plugin, or inside of a function"
            raise rig.refuse(f"importing {module} imports {found[0]}, which takes seconds", hint, rig.schema)

    def test_it_is_imported_in_a_moment(self) -> None:
        """importing the plugin costs less than importing t2x"""
        rig = self.rig
        module = rig.plugin.point.module
        code = (
            "import time, json; a = time.process_time(); import t2x_core.assembly, t2x_core.conditioning, "
            "t2x_core.data.loader; b = time.process_time(); "
            f"import {module}; c = time.process_time(); print(json.dumps([b - a, c - b]))"
        )
        core, own = json.loads(_python(code))
        if own > core:
            hint = "import what takes long inside of the functions that need it"
            raise rig.refuse(f"importing {module} takes {own:.1f} s of the CPU, t2x itself {core:.1f} s", hint)


def _blocks(schema: type) -> list[type]:
    """The dataclass, and those that are fields of it, at any depth; without those of the core."""
    import typing

    from t2x_core.recipe.check import field_types

    found, queue = [schema], [schema]
    while queue:
        kinds: list[Any] = list(field_types(queue.pop()).values())
        while kinds:
            kind = kinds.pop()
            kinds += typing.get_args(kind)
            if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind not in found:
                found.append(kind)
                queue.append(kind)
    return found


def _python(code: str) -> str:
    """What a new interpreter prints as its last line."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "the import ended Python")
    return done.stdout.strip().splitlines()[-1]


def loose_tensors(part: nn.Module) -> list[str]:
    """Names of tensors that are plain attributes of a module: they are not saved, and stay behind on the CPU."""
    return [
        f"{name}.{attribute}" if name else attribute
        for name, module in part.named_modules()
        for attribute, value in vars(module).items()
        if isinstance(value, Tensor)
    ]
