"""The registry: what it imports, and what it says when a plugin is not right."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from t2x_core import entry_points, plugins
from t2x_core.errors import UserError
from t2x_core.plugins import Registry

GOOD = """
from t2x_core.encoders.identity import IdentityCodec, IdentityConfig
from t2x_core.interfaces import Component
from t2x_core.plugins import hookimpl

@hookimpl
def t2x_register_codecs():
    return [Component("{name}", IdentityConfig, IdentityCodec)]
"""
MISSPELT = """
from t2x_core.plugins import hookimpl

@hookimpl
def t2x_register_task():
    return []
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Makes modules importable, and entry points of them the only ones there are."""
    points: list[EntryPoint] = []
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(entry_points, "entry_points", lambda group: points)

    def add(name: str, source: str, module: str | None = None) -> None:
        module = module or f"plugin_{name}"
        (tmp_path / f"{module}.py").write_text(source.format(name=name))
        monkeypatch.delitem(sys.modules, module, raising=False)
        points.append(EntryPoint(name, module, entry_points.GROUP))

    return add


def test_only_what_is_named_is_imported(install):
    install("mine", GOOD)
    install("other", "raise RuntimeError('imported')")
    registry = Registry()
    assert "plugin_mine" not in sys.modules
    assert registry.component("codec", "mine").name == "mine"
    assert registry.component("codec", "identity").name == "identity"
    assert "plugin_other" not in sys.modules


def test_a_plugin_that_fails_to_import_is_named(install):
    install("broken", "import no_such_package")
    with pytest.raises(UserError, match='plugin "broken" of plugin_broken cannot be imported: No module named'):
        Registry().task("broken")


def test_a_misspelt_hook_is_found(install):
    install("typo", MISSPELT)
    with pytest.raises(UserError, match="unknown hook 't2x_register_task'"):
        Registry().task("typo")


def test_two_packages_of_one_name_are_an_error(install):
    install("mine", GOOD, module="plugin_a")
    install("mine", GOOD, module="plugin_b")
    with pytest.raises(UserError, match='register "mine": plugin_a and plugin_b; uninstall one'):
        Registry()


def test_a_plugin_may_not_take_the_name_of_a_built_in(install):
    install("identity", GOOD)
    with pytest.raises(UserError, match='2 plugins register the codec "identity"'):
        Registry().component("codec", "identity")


def test_unknown_names_get_suggestions(install):
    install("mine", GOOD)
    with pytest.raises(UserError, match='no installed plugin brings the task "mime"; did you mean "mine"'):
        Registry().task("mime")
    with pytest.raises(UserError, match='text encoder "xyz"; there are: bytes'):
        Registry().component("text_encoder", "xyz")


def test_the_hooks_are_documented():
    for name, hook in vars(plugins.Hooks).items():
        if name.startswith("t2x_"):
            assert hook.__doc__, name
            assert hook.__annotations__["return"], name
