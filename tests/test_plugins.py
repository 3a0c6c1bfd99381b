"""Plugins of strangers: what is imported, and what is said when one is not right."""

# ruff: noqa: E501 (one mistake a line)

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from t2x_core import plugins
from t2x_core.cli.main import main
from t2x_core.entry_points import installed
from t2x_core.errors import UserError
from t2x_core.plugins import Registry

Install = Callable[..., None]

CODEC = """
from collections.abc import Sequence
from {module}_config import MyConfig
from t2x_core.encoders.identity import IdentityCodec
from t2x_core.interfaces import Component
from t2x_core.plugins import hookimpl

@hookimpl
def t2x_register():
    return [Component("mine", MyConfig, IdentityCodec)]
"""
CODEC_CONFIG = """
from dataclasses import dataclass
from t2x_core.recipe import CodecConfig, TaskConfig

@dataclass(frozen=True, kw_only=True)
class MyConfig(CodecConfig):
    name: str = "mine"
    spatial_factor = 1
"""
TASK = """
from dataclasses import dataclass
from t2x_core.interfaces import Component, Task
from t2x_core.plugins import hookimpl
from t2x_core.recipe import TaskConfig

@dataclass(frozen=True, kw_only=True)
class MyConfig(TaskConfig):
    def sizes(self):
        return {{}}

class MyTask(Task):
    def data_module(self, context): ...
    def adapter(self, context): ...

@hookimpl
def t2x_register():
    return [Component("mine", MyConfig, MyTask)]
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a package where Python finds it, with the files that pip would write."""
    monkeypatch.chdir(tmp_path)

    def add(
        source: str,
        *,
        package: str = "their",
        name: str = "mine",
        point: str | None = None,
        config: str | None = None,
        settings: str | None = None,
        requires: str = "t2x>=0.1,<0.2",
    ) -> None:
        module = f"{package}_plugin"
        for file, text in ((module, source), (f"{module}_config", config)):
            if text is not None:
                (tmp_path / f"{file}.py").write_text(text.format(module=module))
            monkeypatch.delitem(sys.modules, file, raising=False)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nRequires-Dist: {requires}\n"
        )
        points = f"[t2x]\n{name} = {point or module}\n"
        if config is not None or settings is not None:
            points += f"[t2x.settings]\n{settings or f'{name} = {module}_config:MyConfig'}\n"
        (info / "entry_points.txt").write_text(points)
        monkeypatch.syspath_prepend(tmp_path)

    return add


def refusal(ask: Callable[[Registry], object]) -> str:
    with pytest.raises(UserError) as caught:
        ask(Registry())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def codec(registry: Registry) -> object:
    return registry.component("codec", "mine")


def task(registry: Registry) -> object:
    return registry.component("task", "mine")


def test_settings_are_known_without_the_plugin(install):
    install(CODEC, config=CODEC_CONFIG)
    registry = Registry()
    assert registry.schema("codec", "mine").__name__ == "MyConfig"
    assert "their_plugin" not in sys.modules
    assert registry.component("codec", "mine").name == "mine"
    assert "their_plugin" in sys.modules


def test_a_plugin_that_lists_no_settings_is_imported_for_them(install):
    install(TASK)
    assert Registry().schema("task", "mine").__name__ == "MyConfig"


def test_only_what_is_named_is_imported(install):
    install("raise RuntimeError('imported')")
    assert Registry().component("codec", "identity").name == "identity"
    assert Registry().component("task", "text-to-image").name == "text-to-image"


# What the package is, what is asked of the registry, the message.
PACKAGE = 'plugin "mine" of their 1.0: '
HOOK = "from t2x_core.plugins import hookimpl\n\n@hookimpl\ndef t2x_register():\n"
# fmt: off
WRONG = [
    ("import no_such_package", "their_plugin.py:1: ", "cannot be imported: ModuleNotFoundError: No module named 'no_such_package'; repair it, or uninstall the package"),
    ("def f(:", "their_plugin.py:1: ", "cannot be imported: SyntaxError: invalid syntax (their_plugin.py, line 1); repair it, or uninstall the package"),
    ("\nraise SystemExit(3)", "their_plugin.py:2: ", "cannot be imported: SystemExit: 3; repair it, or uninstall the package"),
    ("1 / 0", "their_plugin.py:1: ", "cannot be imported: ZeroDivisionError: division by zero; repair it, or uninstall the package"),
    ("", "", "has no hook t2x_register, so it brings nothing; write it, in its module"),
    (HOOK.replace("t2x_register", "t2x_register_tasks") + "    return []", "", 'there is no hook "t2x_register_tasks"; the hook is t2x_register'),
    (HOOK.replace("@hookimpl\n", "") + "    return []", "", "t2x_register is not marked as a hook; write @hookimpl above it"),
    (HOOK.replace("()", "(config)") + "    return []", "", "Argument(s) {'config'} are declared in the hookimpl but can not be found in the hookspec"),
    (HOOK + "    pass", "", "t2x_register must return a list, not None"),
    (HOOK + "    return 3", "", "t2x_register must return a list, not int"),
    (HOOK + "    return []", "", "t2x_register brings nothing; the name of the entry point must be the name of what it brings, once"),
    (HOOK + "    return ['mine']", "", "t2x_register returns str, which is no Component; return entries such as Component(name, settings class, class)"),
    (HOOK + "    raise KeyError('lost')", "their_plugin.py:5: ", "t2x_register failed: KeyError: 'lost'"),
    (TASK.replace('[Component("mine", MyConfig, MyTask)]', "[MyTask]"), "", "t2x_register returns MyTask, which is no Component; return entries such as Component(name, settings class, class)"),
    (TASK.replace('[Component("mine", MyConfig, MyTask)]', 'Component("mine", MyConfig, MyTask)'), "", "t2x_register must return a list, not Component"),
    (TASK.replace('"mine"', '"thine"'), "", 't2x_register brings "thine"; the name of the entry point must be the name of what it brings, once'),
    (TASK.replace("def adapter", "def adaptor"), "", "MyTask does not implement adapter"),
    (TASK.replace("MyTask(Task)", "MyTask(dict)"), "", "MyTask is no Task; derive it from Task"),
    (TASK.replace("MyConfig, MyTask", "dict, MyTask"), "", "its settings dict must be a class that derives from one of TaskConfig, SourceConfig, CodecConfig, TextEncoderConfig"),
    (TASK.replace("frozen=True, ", "frozen=False, "), "their_plugin.py:7: ", "cannot be imported: TypeError: cannot inherit non-frozen dataclass from a frozen one; repair it, or uninstall the package"),
    (TASK.replace("@dataclass(frozen=True, kw_only=True)\n", ""), "", "its settings MyConfig must be a frozen dataclass; write @dataclass(frozen=True, kw_only=True) above it"),
    (TASK.replace("def sizes", "def size"), "", "its settings MyConfig do not implement sizes"),
]
# fmt: on


@pytest.mark.parametrize(("source", "where", "message"), WRONG)
def test_what_is_wrong_with_a_task_is_one_line_that_names_its_package(install, source, where, message):
    install(source)
    assert refusal(task).removeprefix(f"{Path.cwd()}/") == f"{where}{PACKAGE}{message}"


# How the package is installed, the message.
# fmt: off
ENTRY_POINTS = [
    (
        {"point": "ther_plugin"},
        'there is no module "ther_plugin", which its entry point names (t2x: mine = "ther_plugin")',
    ),
    (
        {"point": "their_plugin.x"},
        'there is no module "their_plugin.x", which its entry point names (t2x: mine = "their_plugin.x")',
    ),
    (
        {"point": "their_plugin:MyTsk"},
        '"their_plugin" has no "MyTsk", which its entry point names (t2x: mine = "their_plugin:MyTsk"); did you mean "MyTask"?',
    ),
    ({"point": "their_plugin:MyTask"}, "its entry point names the class MyTask; name the module with the hooks"),
    (
        {"config": "", "settings": "mine = their_plugin_config:My"},
        '"their_plugin_config" has no "My", which its entry point names (t2x.settings: mine = "their_plugin_config:My")',
    ),
    (
        {"settings": "mime = x:Y"},
        'its package lists settings for "mime", which it does not bring; name them "mine"',
    ),
    (
        {"config": "MyConfig = 3"},
        "its settings 3 must be a class that derives from one of TaskConfig, SourceConfig, CodecConfig, TextEncoderConfig",
    ),
    (
        {"config": TASK},
        "it names two different settings: their_plugin_config.MyConfig in t2x.settings, their_plugin.MyConfig as config_class; name one class in both places",
    ),
    (
        {"requires": "t2x>=0.3,<0.4"},
        "is made for t2x <0.4,>=0.3; this is t2x 0.1.0; install a version of the plugin that is made for this t2x, or the t2x that it needs",
    ),
]
# fmt: on


@pytest.mark.parametrize(("wrong", "message"), ENTRY_POINTS)
def test_what_is_wrong_with_an_entry_point(install, wrong, message):
    install(TASK, **wrong)
    assert refusal(task) == PACKAGE + message


def test_the_version_that_is_required(install):
    install(TASK, requires="t2x[test]>=0.1.0; python_version > '3'")
    install(TASK, package="extra", name="extra", requires="t2x>=7; extra == 'new'")
    install(TASK, package="odd", name="odd", requires="t2x of the year of the cat")
    assert Registry().component("task", "mine").name == "mine"
    assert all(plugin.check_version() is None for plugin in installed())


def test_a_plugin_for_another_version_is_not_even_imported(install):
    install("raise RuntimeError('imported')", requires="T2X>=7")
    assert "is made for t2x >=7" in refusal(task)


def test_two_packages_of_one_name_are_an_error_for_who_asks_for_it(install, capsys):
    install(CODEC, config=CODEC_CONFIG)
    install(CODEC, config=CODEC_CONFIG, package="other")
    assert refusal(codec) == 'two installed packages bring "mine": other 1.0 and their 1.0; uninstall one'
    assert Registry().component("codec", "identity").name == "identity"
    assert main(["plugins"]) == 0
    assert capsys.readouterr().out.count("! another package brings this name, too; uninstall one") == 2


def test_a_plugin_may_not_take_the_name_of_one_that_comes_along(install):
    install(CODEC, config=CODEC_CONFIG, name="identity")
    assert refusal(lambda r: r.component("codec", "identity")).startswith("two installed packages bring")


def test_unknown_names_get_suggestions(install):
    install(TASK)
    assert (
        refusal(lambda r: r.component("task", "mime"))
        == 'no installed plugin brings the task "mime"; did you mean "mine"?'
    )
    assert refusal(lambda r: r.component("text_encoder", "xyz")).endswith(
        'text encoder "xyz"; there are: bytes, mine, transformers'
    )
    assert refusal(lambda r: r.component("task", "bytes")).startswith(
        '"bytes" is a text encoder, not a task; there are: mine'
    )


def test_one_module_may_bring_several_things(install, tmp_path):
    both = '[Component("mine", MyConfig, MyTask), Component("other", MyConfig, MyTask)]'
    install(TASK.replace('[Component("mine", MyConfig, MyTask)]', both))
    with (tmp_path / "their-1.0.dist-info" / "entry_points.txt").open("a") as file:
        file.write("other = their_plugin\n")
    registry = Registry()
    assert [registry.component("task", name).name for name in ("mine", "other", "mine")] == ["mine", "other", "mine"]


def test_the_list_says_what_is_wrong_and_goes_on(install, capsys):
    install("raise RuntimeError('imported')", config="import no_such_package")
    install("raise RuntimeError('imported')", package="old", name="old", requires="t2x>=7")
    install("raise RuntimeError('imported')", package="plain", name="plain")
    install("", package="lost", name="lost", point="no.such.module")
    assert main(["plugins"]) == 0
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in capsys.readouterr().out.splitlines()}
    assert rows["mine"].startswith("? their 1.0 ! cannot be imported: ModuleNotFoundError")
    assert rows["old"].startswith("? old 1.0 ! is made for t2x >=7; this is t2x 0.1.0")
    assert rows["plain"] == "? plain 1.0 plain_plugin.py"
    assert rows["lost"] == "? lost 1.0 ! there is no such module"
    assert rows["identity"].startswith("codec t2x 0.1.0 ")
    assert rows["text-to-image"].startswith("task t2x 0.1.0 ")


def test_the_hooks_are_documented():
    for name, hook in vars(plugins.Hooks).items():
        if name.startswith("t2x_"):
            assert hook.__doc__, name
            assert hook.__annotations__["return"], name
