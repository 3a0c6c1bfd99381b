"""What a checked recipe holds, and that it can be written down and read back."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import t2x_core.recipe
from t2x_core.errors import UserError
from t2x_core.recipe import Recipe, build, components, compose, dump_yaml, field_docs, schema, to_plain

Load = Callable[..., Recipe]


def test_defaults_and_types(load: Load, valid: str) -> None:
    recipe = load(valid, "optimizer.lr=1", "backbone.window=[1, 2, 2]", "trainer.devices=auto", "ema=null")
    assert recipe.tasks["images"].weight == 1.0
    assert recipe.optimizer == schema.OptimizerConfig(lr=1.0)
    assert type(recipe.optimizer.lr) is float
    assert recipe.backbone == schema.BackboneConfig(preset="S", window=(1, 2, 2))
    assert recipe.trainer == schema.TrainerConfig(max_steps=10, global_batch=8, devices="auto")
    assert recipe.ema == schema.EMAConfig()
    assert recipe.text_encoders == {}
    assert recipe.logging.runs_dir == Path("runs")


def test_null_is_none_where_that_is_allowed_and_the_default_elsewhere(load: Load, valid: str) -> None:
    recipe = load(valid + "optimizer: {lr: 2.0, clip_norm: 2.0}\n", "optimizer.lr=null", "optimizer.clip_norm=null")
    assert recipe.optimizer.lr == schema.OptimizerConfig().lr
    assert recipe.optimizer.clip_norm is None
    two = valid.replace("tasks:", "tasks:\n  videos: {weight: 2}")
    assert list(load(two, "tasks.videos=null").tasks) == ["images"]


def test_union_takes_the_member_that_fits(load: Load, valid: str) -> None:
    def crop(written: str) -> Any:
        return load(valid, f"tasks.images.data.crop={written}").tasks["images"].data.crop  # type: ignore[attr-defined]

    assert crop("true") is True
    assert crop("1") == 1.0
    assert type(crop("1")) is float
    assert crop("[1, 2]") == [1, 2]
    assert crop("[a]") == ["a"]


def test_component_schema_adds_its_own_fields(load: Load, valid: str) -> None:
    encoder = load(valid, "text_encoders={t5: {name: bytes, width: 64}}").text_encoders["t5"]
    assert to_plain(encoder) == {"name": "bytes", "width": 64}


def test_build_takes_one_block(here: Path, valid: str) -> None:
    (here / "recipe.yaml").write_text(valid)
    composed = compose("recipe.yaml")
    assert build(schema.BackboneConfig, composed, "backbone").preset == "S"
    assert build(schema.LoggingConfig, composed, "logging") == schema.LoggingConfig()
    with pytest.raises(UserError, match=r"x\.name is missing"):
        build(components.ComponentConfig, composed, "x")


def test_a_field_of_a_type_that_no_recipe_can_hold_is_the_programmer_s_mistake(here: Path) -> None:
    @dataclass(frozen=True)
    class Bad:
        when: complex

    (here / "recipe.yaml").write_text("when: 3\n")
    with pytest.raises(TypeError, match="when: a recipe cannot hold a field of type"):
        build(Bad, compose("recipe.yaml"))


def test_round_trip(load: Load, valid: str) -> None:
    hard = {
        "a": "1e-4",
        "b": "yes",
        "c": "null",
        "d": "2024-01-01",
        "e": "x: y # z",
        "f": "",
        "g": "ü\n\ttab",
        "h": "0x1",
    }
    recipe = load(
        valid,
        "backbone={preset: null, width: 64, depth: 2, heads: 4, window: [1, 2, 2]}",
        "optimizer={lr: 1e-5, eps: 1e-16, clip_norm: null}",
        "text_encoders={bytes: {width: 8}}",
        "tasks.images.data={folder: photos, sides: [8, 16], crop: true, extra: {k: [1, {l: null}]}}",
        "tasks.images.data.columns=" + dump_yaml(hard),
    )
    assert recipe.tasks["images"].data.columns == hard  # type: ignore[attr-defined]
    text = dump_yaml(to_plain(recipe))
    assert load(text) == recipe
    assert dump_yaml(to_plain(load(text))) == text


def test_round_trip_of_text_that_looks_like_an_interpolation(load: Load, valid: str) -> None:
    pick = random.Random(0)
    for _ in range(40):
        note = "".join(pick.choice(["\\", "${", "$", "{", "}", "seed", " "]) for _ in range(8))
        plain = to_plain(load(valid))
        plain["tasks"]["images"]["data"]["note"] = note
        assert load(dump_yaml(plain)).tasks["images"].data.note == note  # type: ignore[attr-defined]


def test_show(load: Load, valid: str) -> None:
    text = dump_yaml(to_plain(load(valid)))
    assert text.startswith(
        "seed: 0\n"
        "deterministic: false\n"
        "matmul_precision: highest\n"
        "tasks:\n"
        "  images:\n"
        "    weight: 1.0\n"
        "    global_batch: null\n"
        "    data:\n"
        "      folder: null\n"
        "      sides: [32]\n"
    )
    assert "  betas: [0.9, 0.99]\n" in text


@pytest.mark.parametrize(
    "config",
    [v for v in (vars(schema) | vars(components)).values() if dataclasses.is_dataclass(v) and v is not schema.Range],
)
def test_each_field_says_what_it_means(config: type) -> None:
    docs = field_docs(config)
    assert list(docs) == [field.name for field in dataclasses.fields(config)]
    for doc in docs.values():
        assert doc.endswith(".")
        assert len(doc) <= 120


def test_field_docs_of_a_subclass_include_those_it_inherits() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Mine(schema.TaskConfig):
        own: int
        """My own."""

    assert field_docs(Mine) == {**field_docs(schema.TaskConfig), "own": "My own."}


def test_a_wrong_recipe_is_told_quickly_and_without_torch(here: Path, valid: str) -> None:
    (here / "recipe.yaml").write_text(valid + "seed: ${nothing}\n")  # an interpolation: OmegaConf is loaded too
    program = (
        "import sys\n"
        "from t2x_core.recipe import compose\n"
        "try:\n"
        "    compose('recipe.yaml')\n"
        "except ValueError as error:\n"
        "    print(error)\n"
        "print(sorted({'torch', 'lightning', 'numpy'} & set(sys.modules)))\n"
    )
    source = Path(t2x_core.recipe.__file__).parents[2]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(source)}
    )
    seconds = time.perf_counter() - start
    assert done.stdout.splitlines()[0].startswith('recipe.yaml:9: cannot resolve "${nothing}"')
    assert done.stdout.splitlines()[1] == "[]"
    assert seconds < 2.0  # 0.3 s on an idle machine
