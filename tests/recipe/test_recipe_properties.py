"""Whatever is in a recipe or behind a `=`: a checked recipe, or one line. Never anything else, and never for long."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from t2x_core.errors import UserError
from t2x_core.recipe import Recipe, check_recipe, compose, dump_yaml, to_plain
from t2x_core.recipe.overrides import parse_override
from tests.recipe.conftest import VALID, schema_of

FOLDER, NOTE = "tasks.images.data.folder", "tasks.images.data.note"
KEYS = (
    "seed",
    "backbone.weights",
    "optimizer.lr",
    "optimizer.freeze",
    "backbone.window",
    "ema",
    "trainer.devices",
    "logging.runs_dir",
)
KEYS += (FOLDER, NOTE, "tasks.images.data.columns", "tasks.images.data.crop", "tasks.images.data.extra", "x.y")
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))
YAML_LIKE = st.lists(
    st.sampled_from(
        [*"[]{}:,#&*!|>'\"%@`~-?\n\t\\ =<.0123", "&a ", "*a", "<<: ", "!!int ", "${seed}", "${", "\\", "null"]
    )
    | ANY_TEXT,
    max_size=30,
).map("".join)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.sampled_from(["${seed}", 10**400, 1e-60])
)
NAMES = st.sampled_from(sorted({part for key in KEYS for part in key.split(".")})) | st.text(max_size=5)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=20
)
QUICK = settings(max_examples=250, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])


def checked(*overrides: str) -> Recipe | None:
    """The recipe of recipe.yaml, or None if it was refused in one line that a terminal shows as it is."""
    try:
        recipe = check_recipe(compose("recipe.yaml", overrides), schema_of)
    except UserError as error:
        line = str(error)
        assert line
        assert not {unicodedata.category(letter) for letter in line} & {"Cc", "Cs", "Zl", "Zp"}
        return None
    assert recipe is not None
    Path("again.yaml").write_text(dump_yaml(to_plain(recipe)), encoding="utf-8")
    assert check_recipe(compose("again.yaml"), schema_of) == recipe
    return recipe


@QUICK
@given(st.binary(max_size=200) | YAML_LIKE.map(lambda text: text.encode(errors="replace")))
@example(b'"\\U00110000": 1')
@example(b"a: &a {<<: *a}")
@example(b"a: &a {<<: [*a, {b: 1}]}")
@example(b"a: <<")
@example(b"? <<\n: 1")
@example(b"%YAML 9.9\n---\na: 1")
@example(b"%TAG ! \xff\n---\na: 1")
@example(b"a: " + b"9" * 5000)
@example(b"9" * 5000 + b": 1")
@example(b"[" * 3000)
@example(b"- " * 3000)
@example(b"? " * 3000)
@example(b"base: [/dev/zero]")
@example(b"base: ''")
@example(b"base: .")
@example(b"base: ~root")
@example(b"base: " + b"x" * 5000)
def test_any_file(here: Path, content: bytes) -> None:
    (here / "recipe.yaml").write_bytes(content)
    checked()
    (here / "recipe.yaml").write_bytes(VALID.encode() + content)
    checked()


@QUICK
@given(st.dictionaries(NAMES, TREES, max_size=4))
def test_any_tree(here: Path, tree: dict[str, Any]) -> None:
    (here / "recipe.yaml").write_text(yaml.safe_dump({**yaml.safe_load(VALID), **tree}), encoding="utf-8")
    checked()


@QUICK
@given(st.sampled_from(KEYS) | ANY_TEXT, YAML_LIKE | ANY_TEXT)
def test_any_override(here: Path, key: str, value: str) -> None:
    (here / "recipe.yaml").write_text(VALID)
    checked(f"{key}={value}")


@QUICK
@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1) | YAML_LIKE)
@example("my #1 set")
@example("~")
@example("1_000")
@example("{a")
@example("a: b")
@example("*a")
@example(" x ")
def test_text_is_taken_letter_by_letter(here: Path, text: str) -> None:
    (here / "recipe.yaml").write_text(VALID)
    halves = any(0xD800 <= ord(letter) <= 0xDFFF for letter in text)
    if not text.strip() or "${" in text or halves or text.strip() == "null" or text.strip()[0] in "'\"":
        return
    recipe = checked(f"{NOTE}={text}")
    assert recipe is not None
    assert recipe.tasks["images"].data.note == text  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("written", "as_text", "as_yaml"),
    [
        ("my #1 set", "my #1 set", "my"),
        ("1_000", "1_000", 1000),
        ("0x10", "0x10", "0x10"),
        ("007", "007", 7),
        ("1e3", "1e3", 1000.0),
        ("yes", "yes", "yes"),
        ("2024-01-01", "2024-01-01", "2024-01-01"),
        ("~", "~", None),
        ("null", None, None),
        (" null ", None, None),
        ('"null"', "null", "null"),
        ("'it''s'", "it's", "it's"),
        ('"a" and "b"', '"a" and "b"', '"a" and "b"'),
        ("a=b", "a=b", "a=b"),
        ("x  ", "x  ", "x"),
        ("[1, 2]", "[1, 2]", [1, 2]),
        ("!x", "!x", "!x"),
    ],
)
def test_what_is_written_as_text_and_as_yaml(written: str, as_text: str | None, as_yaml: Any) -> None:
    node = parse_override(written)
    assert node.text == as_text
    assert node.plain() == as_yaml


def test_paths_of_the_command_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "recipe.yaml").write_text(VALID)
    monkeypatch.setenv("HOME", "/home/somebody")

    def folder(written: str) -> Path | None:
        recipe = checked(f"{FOLDER}={written}")
        assert recipe is not None
        return recipe.tasks["images"].data.folder  # type: ignore[attr-defined]

    assert folder("~") == Path("/home/somebody")
    assert folder("~/x") == Path("/home/somebody/x")
    assert folder("my #1 set") == here / "my #1 set"
    assert folder("12") == here / "12"
    assert folder("null") is None
    assert folder("x\udcff") == here / "x\udcff"
    assert os.fsencode(folder("x\udcff") or "").endswith(b"x\xff")


def test_bombs_are_refused_or_harmless(here: Path) -> None:
    lists = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
    )
    merged = "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 9)
    )
    wide = (
        "a: &a {"
        + ", ".join(f"k{i}: 1" for i in range(2000))
        + "}\n"
        + "".join(f"b{i}: {{<<: *a}}\n" for i in range(900))
    )
    texts = "a9: x\n" + "".join(f"a{i}: '{f'${{a{i + 1}}}' * 8}'\n" for i in range(9))
    trees = "a0: {x: 1, y: 1}\n" + "".join(f"a{i}: {{x: '${{a{i - 1}}}', y: '${{a{i - 1}}}'}}\n" for i in range(1, 19))
    through = "a0: {x: 1234567890}\n" + "".join(
        f"a{i}: {{x: '${{a{i - 1}.x}}${{a{i - 1}.x}}'}}\n" for i in range(1, 19)
    )
    chain = "a0: x\n" + "".join(f"a{i}: '${{a{i - 1}}}'\n" for i in range(1, 200))
    for bomb in (lists, wide, texts, trees, through, chain):
        (here / "recipe.yaml").write_text(bomb)
        with pytest.raises(UserError, match="more than"):
            compose("recipe.yaml")
    (here / "recipe.yaml").write_text(merged)
    assert compose("recipe.yaml").root.plain()["a8"] == {"x": 1}
    for i in range(20):
        (here / f"b{i}.yaml").write_text(f"base: [b{i + 1}.yaml, b{i + 1}.yaml]\n")
    (here / "b20.yaml").write_text("seed: 1\n")
    assert compose("b0.yaml").root.plain() == {"seed": 1}
    (here / "recipe.yaml").write_text(f"base: [{', '.join(['b20.yaml'] * 200)}]\n")
    with pytest.raises(UserError, match="too many bases"):
        compose("recipe.yaml")


def test_special_files(here: Path) -> None:
    os.mkfifo(here / "pipe.yaml")
    (here / "loop.yaml").symlink_to("loop.yaml")
    (here / "large.yaml").write_text("#" * 2**20)
    (here / "recipe.yaml").write_text("base: pipe.yaml\n")
    for name in ("pipe.yaml", "loop.yaml", "large.yaml", "/dev/zero", ".", "recipe.yaml"):
        with pytest.raises(UserError):
            compose(name)
