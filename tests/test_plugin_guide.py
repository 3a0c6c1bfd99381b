"""docs/plugins.md says what the code says."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

from t2x_core import interfaces, plugins, source, types
from t2x_core.cli.main import main
from t2x_core.recipe import field_docs
from tests.test_plugins import ENTRY_POINTS, WRONG

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "plugins.md").read_text()
EXAMPLE = ROOT / "tests" / "example_plugin"
SOURCES = [
    file.read_text()
    for folder in (
        EXAMPLE,
        ROOT / "t2x_core" / "encoders",
        ROOT / "docs" / "examples",
        ROOT / "t2x_plugins" / "text_to_image",
    )
    for file in folder.rglob("*")
    if file.suffix in (".py", ".toml", ".yaml")
]
ABSTRACT = [
    method
    for module in (interfaces, source)
    for owner in vars(module).values()
    if inspect.isclass(owner) and owner.__module__ == module.__name__
    for method in vars(owner).values()
    if getattr(method, "__isabstractmethod__", False)
]
HOOKS = [hook for name, hook in vars(plugins.Hooks).items() if name.startswith("t2x_")]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def signature(function) -> str:
    """`loss(config: ConfigT) -> Loss`, without self, as a cell of a table."""
    written = str(inspect.signature(function)).replace("(self, ", "(").replace("(self)", "()").replace("'", "")
    return f"| `{function.__name__}{written}` |".replace(" | None", r" \| None")


def test_each_excerpt_is_the_code():
    excerpts = [*blocks("python"), *blocks("toml"), *blocks("yaml")]
    assert len(excerpts) >= 12
    for excerpt in excerpts:
        shown = excerpt.startswith("tasks:\n  class-to-image:\n    #")  # see below
        assert shown or any(excerpt.strip() in source for source in SOURCES), excerpt


def test_the_settings_are_as_t2x_shows_them(monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLE)
    from class_to_image.config import ClassToImageConfig

    from t2x_core.recipe import commented

    shown = [block for block in blocks("yaml") if block.startswith("tasks:\n  class-to-image:\n    #")]
    assert [line.removeprefix("    ") for line in shown[0].splitlines()[2:]] == commented(
        ClassToImageConfig
    ).splitlines()


@pytest.mark.parametrize("function", [*ABSTRACT, *HOOKS], ids=lambda function: function.__qualname__)
def test_each_method_and_each_hook_is_there_with_its_signature(function):
    assert signature(function) in PAGE


RECORDS = [
    *(
        types.Bucket,
        types.Variation,
        types.Sample,
        types.Batch,
        types.Conditioning,
        types.ConditioningDims,
        types.Noised,
    ),
    *(types.RenderedSamples, types.TextInput, types.TextTokens, interfaces.DataContext, interfaces.ModelContext),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_each_field_is_there_with_its_meaning(record):
    docs = field_docs(record)
    section = PAGE.partition(f"### `{record.__name__}`\n")[2].partition("\n##")[0]
    for field in dataclasses.fields(record):
        meaning = docs[field.name].replace("|", r"\|")
        assert f"| `{field.name}` | {meaning} |" in section


def test_each_message_is_one_that_a_test_sees():
    messages = {message for *_, message in [*WRONG, *ENTRY_POINTS]}
    (text,) = blocks("text")
    assert len(text.splitlines()) >= 7
    assert set(text.splitlines()) <= messages


def test_the_commands_are_commands(capsys):
    for line in "".join(blocks("sh")).splitlines():
        if line.startswith("t2x "):
            with pytest.raises(SystemExit) as caught:
                main([line.split()[1], "--help"])
            assert caught.value.code == 0
