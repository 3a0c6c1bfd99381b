"""The JSON schema of recipes: what ships passes it, what is wrong does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from t2x_core.cli.main import main
from t2x_core.recipe.catalog import shipped_folder
from t2x_core.recipe.yaml_tree import read_yaml

SHIPPED = sorted(shipped_folder().rglob("*.yaml"))
PIECES = [file for file in SHIPPED if file.relative_to(shipped_folder()).parts[0].startswith("_")]


@pytest.fixture
def schema(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["show", "--schema"]) == 0
    found = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def mistakes(schema: dict[str, Any], recipe: Any) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(recipe)]


def test_each_shipped_recipe_passes(schema: dict[str, Any]) -> None:
    assert len(SHIPPED) > 10
    for file in SHIPPED:
        recipe = read_yaml(file).plain()
        if file in PIECES:  # which are no recipes alone
            recipe = {"base": [], **recipe}
        assert mistakes(schema, recipe) == [], file


def test_what_t2x_show_prints_passes(
    schema: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("quickstart", "text_to_video/quickstart", "text_to_multiview/quickstart", "joint/quickstart"):
        assert main(["show", name]) == 0
        (tmp_path / "shown.yaml").write_text(capsys.readouterr().out)
        assert mistakes(schema, read_yaml(tmp_path / "shown.yaml").plain()) == []


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        [],
        {"base": 3},
        {"base": "quickstart", "bakbone": {}},
        {"base": "quickstart", "trainer": {"max_stepps": 1}},
        {"base": "quickstart", "trainer": {"max_steps": 0}},
        {"base": "quickstart", "trainer": {"max_steps": "10"}},
        {"base": "quickstart", "trainer": {"max_steps": 1.5}},
        {"base": "quickstart", "trainer": 3},
        {"base": "quickstart", "seed": 2**64},
        {"base": "quickstart", "optimizer": {"lr": 1e39}},
        {"base": "quickstart", "optimizer": {"lr": 0}},
        {"base": "quickstart", "optimizer": {"betas": [0.9]}},
        {"base": "quickstart", "optimizer": {"betas": [0.9, 1]}},
        {"base": "quickstart", "optimizer": {"lr_scale": {"a.*": "x"}}},
        {"base": "quickstart", "optimizer": {"freeze": "all"}},
        {"base": "quickstart", "backbone": {"attention": "prxoy"}},
        {"base": "quickstart", "backbone": {"window": "atuo"}},
        {"base": "quickstart", "backbone": {"qk_norm": "yes"}},
        {"base": "quickstart", "codec": {"name": "vae"}},
        {"base": "quickstart", "codec": {"name": "identity", "dim": 3}},
        {"base": "quickstart", "text_encoders": {"bytes": {"name": "bytes", "dimm": 3}}},
        {"base": "quickstart", "text_encoders": {"bytes": {"dimm": 3}}},
        {"base": "quickstart", "tasks": {"text-to-imag": {}}},
        {"base": "quickstart", "tasks": {"text-to-image": {"data": {"shapes": {"sise": 16}}}}},
        {"base": "quickstart", "tasks": {"text-to-image": {"data": {"shapes": {"backgrounds": []}}}}},
        {"tasks": {"text-to-image": {}}, "backbone": {}, "codec": {"name": "identity"}, "trainer": {"max_steps": 2}},
    ],
    ids=json.dumps,
)
def test_what_is_wrong_does_not(schema: dict[str, Any], recipe: Any) -> None:
    assert mistakes(schema, recipe)


@pytest.mark.parametrize(
    "recipe",
    [
        {"base": "quickstart"},
        {"base": ["quickstart", "x.yaml"], "ema": None, "seed": None},
        {"base": "quickstart", "seed": "${trainer.max_steps}", "text_encoders": {"bytes": {"dim": 64}}},
        {"base": "quickstart", "trainer": {"devices": "auto"}, "backbone": {"window": [1, 2, 2]}},
    ],
    ids=json.dumps,
)
def test_what_is_right_does(schema: dict[str, Any], recipe: Any) -> None:
    assert mistakes(schema, recipe) == []
