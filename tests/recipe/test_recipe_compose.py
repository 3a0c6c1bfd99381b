"""How files, bases, overrides and interpolations become one tree, and where each value is said to come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t2x_core.errors import UserError
from t2x_core.recipe import Recipe, compose, find_recipe, list_recipes


def plain(*overrides: str) -> Any:
    return compose("recipe.yaml", overrides).root.plain()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-1E3", -1000.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("010", 10),
        ("on", "on"),
        ("No", "No"),
        ("True", True),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"),
        ("'1e-4'", "1e-4"),
        ("~", None),
        ("[1, [a, null]]", [1, ["a", None]]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
    ],
)
def test_scalars_are_the_same_in_a_file_and_on_the_command_line(here: Path, text: str, value: Any) -> None:
    (here / "recipe.yaml").write_text(f"a: {text}\n")
    result = plain(f"b={text}")
    assert result == {"a": value, "b": value}
    assert type(result["a"]) is type(result["b"]) is type(value)


def test_anchors_and_merge_keys(here: Path) -> None:
    (here / "recipe.yaml").write_text("a: &x {k: 1, l: 2}\nb: &y {<<: *x, k: 3}\nc: *y\nd: {<<: [*y, *x], m: 4}\n")
    assert plain() == {
        "a": {"k": 1, "l": 2},
        "b": {"k": 3, "l": 2},
        "c": {"k": 3, "l": 2},
        "d": {"k": 3, "l": 2, "m": 4},
    }


def test_later_wins_mappings_merge_lists_replace_null_deletes(here: Path) -> None:
    (here / "one.yaml").write_text("a: {x: 1, y: 1, z: 1}\nlist: [1, 2, 3]\ngone: {deep: 1}\nkept: 1\n")
    (here / "two.yaml").write_text("a: {y: 2, z: 2}\n")
    (here / "recipe.yaml").write_text("base: [one.yaml, two.yaml]\na: {z: 3}\nlist: [4]\ngone: null\n")
    assert plain() == {"a": {"x": 1, "y": 2, "z": 3}, "list": [4], "gone": None, "kept": 1}
    assert plain("gone.new=1", "a={x: 9}", "list=[]") == {
        "a": {"x": 9, "y": 2, "z": 3},
        "list": [],
        "gone": {"new": 1},
        "kept": 1,
    }


def test_another_codec_or_text_encoder_does_not_inherit_the_settings_of_the_other(here: Path) -> None:
    (here / "base.yaml").write_text(
        "codec: {name: vae, weights: w, chunk: 2}\n"
        "text_encoders: {t5: {name: transformers, weights: w}, bytes: {dim: 8, depth: 1}}\n"
    )
    (here / "recipe.yaml").write_text(
        "base: base.yaml\ncodec: {name: identity}\n"
        "text_encoders: {t5: {name: mine, size: 1}, bytes: {name: bytes, depth: 2}}\n"
    )
    assert plain() == {
        "codec": {"name": "identity"},
        "text_encoders": {"t5": {"name": "mine", "size": 1}, "bytes": {"name": "bytes", "dim": 8, "depth": 2}},
    }
    (here / "recipe.yaml").write_text("base: base.yaml\ncodec: {chunk: 4}\ntext_encoders: {t5: {layer: 1}}\n")
    kept = {"name": "transformers", "weights": "w", "layer": 1}
    assert plain()["codec"] == {"name": "vae", "weights": "w", "chunk": 4}
    assert plain()["text_encoders"]["t5"] == kept
    assert plain("codec.name=identity")["codec"] == {"name": "identity"}
    assert plain("codec.name=vae")["codec"] == {"name": "vae", "weights": "w", "chunk": 4}
    assert plain("codec={name: other, k: 1}")["codec"] == {"name": "other", "k": 1}
    for order in (("codec.name=other", "codec.chunk=9"), ("codec.chunk=9", "codec.name=other")):
        assert plain(*order)["codec"] == {"name": "other", "chunk": 9}
    assert plain("text_encoders.bytes.name=other")["text_encoders"]["bytes"] == {"name": "other"}
    assert plain("text_encoders.t5.layer=3")["text_encoders"]["t5"] == {**kept, "layer": 3}
    assert plain("text_encoders.t5=null")["text_encoders"]["t5"] is None


def test_base_is_a_file_beside_the_recipe_first_then_a_shipped_name(here: Path) -> None:
    (here / "sub").mkdir()
    (here / "sub" / "mine.yaml").write_text("base: _base_/cpu\nseed: 1\n")
    (here / "recipe.yaml").write_text("base: sub/mine.yaml\n")
    assert plain() == {"seed": 1, "trainer": {"accelerator": "cpu", "threads": 2}}
    (here / "sub" / "_base_").mkdir()
    (here / "sub" / "_base_" / "cpu.yaml").write_text("seed: 2\n")
    (here / "sub" / "mine.yaml").write_text("base: _base_/cpu.yaml\n")
    assert plain() == {"seed": 2}


def test_one_base_by_two_ways_is_not_a_circle(here: Path) -> None:
    (here / "root.yaml").write_text("seed: 1\n")
    (here / "a.yaml").write_text("base: root.yaml\n")
    (here / "b.yaml").write_text("base: root.yaml\n")
    (here / "recipe.yaml").write_text("base: [a.yaml, b.yaml]\n")
    assert plain() == {"seed": 1}


def test_where(here: Path) -> None:
    (here / "one.yaml").write_text("a:\n  x: 1\n  y: 1\nb: {c: 1}\n")
    (here / "recipe.yaml").write_text("# note\nbase: one.yaml\na:\n  y: 2\nlist:\n- 1\n- 2\ni: ${a.x}\nm: ${b}\n")
    composed = compose("recipe.yaml", ["a.z=3", "n.o=4"])
    places = {path: composed.where(path) for path in ("a.x", "a.y", "a.z", "a", "a.w", "b.c", "n.o", "i", "m.c", "")}
    assert places == {
        "a.x": "one.yaml:2",
        "a.y": "recipe.yaml:4",
        "a.z": "command line",
        "a": "recipe.yaml:3",
        "a.w": "recipe.yaml:3",
        "b.c": "one.yaml:4",
        "n.o": "command line",
        "i": "recipe.yaml:8",
        "m.c": "recipe.yaml:9",
        "": "recipe.yaml",
    }
    assert [str(node.origin) for node in composed.root.value["list"].value] == ["recipe.yaml:6", "recipe.yaml:7"]


def test_where_is_absolute_outside_the_current_folder(here: Path, shipped: Path) -> None:
    assert compose("quickstart").where("codec") == f"{shipped}/quickstart.yaml:5"


def test_interpolation(here: Path) -> None:
    (here / "recipe.yaml").write_text(
        "a: {n: 3, text: x, list: [1, {k: 2}]}\n"
        "number: ${a.n}\ntext: <${a.text}-${number}>\nwhole: ${a}\nitem: ${a.list[1].k}\nlists: [a, '${a.n}']\n"
        r"plain: \${a.n}"
        "\nsame:\n  here: 1\n  there: ${.here}\n"
    )
    assert plain("b.c=${number}", "a.n=4") == {
        "a": {"n": 4, "text": "x", "list": [1, {"k": 2}]},
        "number": 4,
        "text": "<x-4>",
        "whole": {"n": 4, "text": "x", "list": [1, {"k": 2}]},
        "item": 2,
        "lists": ["a", 4],
        "plain": "${a.n}",
        "same": {"here": 1, "there": 1},
        "b": {"c": 4},
    }


@pytest.mark.parametrize(
    "text",
    ["${oc.env:SECRET}", "${ oc.env : SECRET }", "a${b.${oc.env:SECRET}}c", "${${name}:SECRET}", r"\\${oc.env:SECRET}"],
)
def test_no_resolver_runs(here: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SECRET", "swordfish")
    (here / "recipe.yaml").write_text(f"name: oc.env\nvalue: '{text}'\n")
    with pytest.raises(UserError, match="calls a resolver") as caught:
        plain()
    assert "swordfish" not in str(caught.value)


def test_text_that_is_put_together_is_not_resolved_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "swordfish")
    (here / "recipe.yaml").write_text(
        "open: \"\\\\${\"\nname: oc.env\nparts: '${open}${name}:SECRET}'\nagain: ${parts}\n"
    )
    assert plain()["parts"] == plain()["again"] == "${oc.env:SECRET}"


def test_find_and_list(here: Path, shipped: Path, valid: str) -> None:
    assert find_recipe("quickstart") == shipped / "quickstart.yaml"
    assert find_recipe("small/folder") == find_recipe("small/folder.yaml") == shipped / "small" / "folder.yaml"
    (here / "quickstart").write_text(valid)
    assert find_recipe("quickstart") == Path("quickstart")
    assert list_recipes() == [("quickstart", "Learns images"), ("small/folder", "")]


def test_paths_belong_to_where_they_are_written(here: Path, load: Callable[..., Recipe], valid: str) -> None:
    (here / "pieces").mkdir()
    (here / "pieces" / "data.yaml").write_text(
        "tasks: {images: {data: {folder: ../photos}}}\nlogging: {runs_dir: out}\n"
    )
    text = "base: pieces/data.yaml\n" + valid

    def folder(recipe: Recipe) -> Path:
        return recipe.tasks["images"].data.folder  # type: ignore[attr-defined]

    assert folder(load(text)) == here / "photos"
    assert load(text).logging.runs_dir == Path("out")
    assert folder(load(text.replace("images: {}", "images: {data: {folder: /abs/x}}"))) == Path("/abs/x")
    assert folder(load(text, "tasks.images.data.folder=other/./photos")) == here / "other" / "photos"
    assert folder(load(text, "tasks.images.data.folder=null")) is None
