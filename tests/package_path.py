"""Packages of plugins on Python's path, with the files that pip would write beside them."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest


def add_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the package in `folder`, which has a pyproject.toml, where Python finds it."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(exist_ok=True)
    needs = "".join(f"Requires-Dist: {need}\n" for need in project.get("dependencies", ()))
    about = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n{needs}"
    (info / "METADATA").write_text(about)
    points = project["entry-points"].items()
    text = "".join(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in points)
    (info / "entry_points.txt").write_text(text)
    own = {path.stem for path in folder.iterdir()}
    for module in [name for name in sys.modules if name.partition(".")[0] in own]:
        monkeypatch.delitem(sys.modules, module)
    for name in own:  # so that it is gone after the test
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)
