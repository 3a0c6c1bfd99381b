"""Each mistake gives one line: where, what, and what to do."""

# ruff: noqa: E501 (one mistake a line)

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from t2x_core.errors import UserError, did_you_mean
from t2x_core.recipe import Recipe, check_core, check_recipe, compose, find_recipe
from tests.recipe.conftest import schema_of

# fmt: off

# The whole recipe, the message.
FILES: list[tuple[str | bytes, str]] = [
    ("", "recipe.yaml: is empty; a recipe is a mapping of keys to values"),
    ("# nothing\n", "recipe.yaml: is empty; a recipe is a mapping of keys to values"),
    ("- a\n", "recipe.yaml: is not a recipe: a mapping of keys to values is needed, not a list"),
    ("seed:1\n", 'recipe.yaml: is not a recipe: a mapping of keys to values is needed, not "seed:1"'),
    (b'\x89PNG\r\n\x1a\n\xff\xfe', "recipe.yaml: is not a text file in UTF-8"),
    (b'seed: 1\x00\n', "recipe.yaml: is not a text file (character #x00)"),
    ("seed: 1\ntrainer:\n\tmax_steps: 3\n", "recipe.yaml:3: broken YAML: a tab; indent with spaces"),
    ("seed: 1\nbackbone: {preset: S\n", "recipe.yaml:2: broken YAML while parsing a flow mapping: expected ',' or '}', but got '<stream end>'"),
    ("seed: 1\nnote: this: that\n", 'recipe.yaml:2: broken YAML: a second ": " on this line, or wrong indentation; text that holds ": " needs quotes'),
    ("seed: 1\n---\nseed: 2\n", 'recipe.yaml:2: broken YAML: a second document ("---"); a recipe is one document'),
    ("seed: *one\n", "recipe.yaml:1: broken YAML: found undefined alias 'one'"),
    ("seed: &a [*a]\n", "recipe.yaml:1: an alias that contains itself"),
    ("seed: !!python/name:os.system 1\n", 'recipe.yaml:1: the tag "tag:yaml.org,2002:python/name:os.system" is not allowed in a recipe'),
    ("seed: 1\nema: {}\nseed: 2\n", 'recipe.yaml:3: the key "seed" is written twice, first on line 1'),
    ("seed: 1\ntasks: {1: {}}\n", "recipe.yaml:2: the key 1 must be text; put it in quotes"),
    ("? [a]\n: 1\n", "recipe.yaml:1: the key that is not a word must be text; put it in quotes"),
    ("base: 3\n", "recipe.yaml:1: base must be a recipe or a list of recipes, not 3"),
    ("base:\n  - quikstart\n", 'recipe.yaml:2: no base "quikstart": there is no such file beside this one, and none of that name ships with t2x; did you mean "quickstart"?'),
    ("seed: 1\nbase: recipe.yaml\n", "recipe.yaml:2: base goes in a circle: recipe.yaml → recipe.yaml"),
    ("seed: 1\n", "recipe.yaml: backbone: set a preset (S, B, L, XL, H), or width, depth and heads; not set: width, depth, heads"),
]

# A piece of the valid recipe, what stands in its place, the message.
EDITS = [
    ("backbone: {preset: S}", "bakbone: {preset: S}", 'recipe.yaml:4: unknown key "bakbone"; did you mean "backbone"?'),
    ("  max_steps: 10", "  maxsteps: 10", 'recipe.yaml:7: unknown key "trainer.maxsteps"; did you mean "max_steps"?'),
    ("  max_steps: 10", "  seed: 3", 'recipe.yaml:7: unknown key "trainer.seed"; known here: max_steps, global_batch, tokens_per_step, batch_multiple, accumulation, devices, num_nodes, accelerator, strategy, shards, precision, gradient_checkpointing, compile, workers, stall_minutes, threads'),
    ("  max_steps: 10", "", "recipe.yaml:6: trainer.max_steps is missing (Length of the training, in optimizer steps.)"),
    ("  max_steps: 10", "  max_steps: 0", "recipe.yaml:7: trainer.max_steps must be at least 1, not 0"),
    ("  max_steps: 10", "  max_steps: 1e4", "recipe.yaml:7: trainer.max_steps must be an integer, not 10000.0; write 10000"),
    ("  max_steps: 10", '  max_steps: "10"', 'recipe.yaml:7: trainer.max_steps must be an integer, not "10"; remove the quotes'),
    ("  max_steps: 10", "  max_steps: true", "recipe.yaml:7: trainer.max_steps must be an integer, not true"),
    ("  max_steps: 10", "  max_steps: {a: 1}", "recipe.yaml:7: trainer.max_steps must be an integer, not a mapping"),
    ("  images: {}", "  images: null", "recipe.yaml:2: tasks has no entry that is not null; for its defaults write images: {}"),
    ("  images: {}", "  videos: {whatever: 1}", 'recipe.yaml:3: no task "videos"'),
    ("  images: {}", "  images: 3", "recipe.yaml:3: tasks.images must be a mapping, not 3"),
    ("  images: {}", "  images: {los: mse}", 'recipe.yaml:3: unknown key "tasks.images.los"; did you mean "loss"?'),
    ("  images: {}", "  images: {loss: huver}", 'recipe.yaml:3: tasks.images.loss must be "mse" or "huber", not "huver"; did you mean "huber"?'),
    ("  images: {}", "  images: {weight: 0}", "recipe.yaml:3: tasks.images.weight must be above 0, not 0"),
    ("  images: {}", "  images: {loss: huber, weight: 6}", "recipe.yaml:3: tasks.images: a weight of 6.0 is too much for huber"),
    ("  images: {}", "  images: {data: {sides: [8, 0]}}", "recipe.yaml:3: tasks.images.data.sides[1] must be at least 1, not 0"),
    ("  images: {}", "  images: {data: {sides: 8}}", "recipe.yaml:3: tasks.images.data.sides must be a list of integers, not 8"),
    ("  images: {}", "  images: {data: {columns: {text: 3}}}", "recipe.yaml:3: tasks.images.data.columns.text must be text, not 3; put it in quotes"),
    ("  images: {}", "  images: {data: {folder: 3}}", "recipe.yaml:3: tasks.images.data.folder must be a path or null, not 3"),
    ("codec: {name: identity}", "codec: {name: identify}", 'recipe.yaml:5: no codec "identify"; did you mean "identity"?'),
    ("codec: {name: identity}", "codec: {}", "recipe.yaml:5: codec.name is missing (Registered name of the component.)"),
    ("codec: {name: identity}", "codec: identity", 'recipe.yaml:5: codec must be a mapping, not "identity"'),
    ("codec: {name: identity}", "", "recipe.yaml: codec is missing (Pixels to latents and back.)"),
    ("codec: {name: identity}", "codec: {name: identity}\ntext_encoders: {bytes: {}}", "recipe.yaml:6: text_encoders.bytes.width is missing (Width of a token.)"),
    ("backbone: {preset: S}", "backbone: {preset: M}", 'recipe.yaml:4: backbone.preset must be "S", "B", "L", "XL", "H", "qihoo-t2i-1b" or null, not "M"'),
    ("backbone: {preset: S}", "backbone: {preset: S, window: atuo}", 'recipe.yaml:4: backbone.window must be a list of 3 integers or "auto", not "atuo"; did you mean "auto"?'),
    ("backbone: {preset: S}", "backbone: {preset: S, window: [8, 8]}", 'recipe.yaml:4: backbone.window must be a list of 3 integers or "auto", not [8, 8]'),
    ("backbone: {preset: S}", "backbone: {preset: S, window: [1, 8, x]}", 'recipe.yaml:4: backbone.window[2] must be an integer, not "x"'),
    ("backbone: {preset: S}", "backbone: {preset: S, qk_norm: yes}", 'recipe.yaml:4: backbone.qk_norm must be true or false, not "yes"'),
    ("backbone: {preset: S}", 'backbone: {preset: S, qk_norm: "False"}', 'recipe.yaml:4: backbone.qk_norm must be true or false, not "False"; remove the quotes'),
    ("backbone: {preset: S}", "backbone: {width: 100, depth: 2, heads: 4}", "recipe.yaml:4: backbone.width: 100 is not divisible by 16; 96 and 112 are"),
    ("backbone: {preset: S}", "backbone: {width: 128, depth: 2, heads: 12}", "recipe.yaml:4: backbone.width: 128 is not divisible by 12 heads; 96 and 144 are"),
    ("backbone: {preset: S}", "backbone: {preset: S}\noptimizer: {betas: [0.9, 1]}", "recipe.yaml:5: optimizer.betas[1] must be below 1, not 1"),
    ("backbone: {preset: S}", "backbone: {preset: S}\noptimizer: {lr: .inf}", "recipe.yaml:5: optimizer.lr must be finite, not Infinity"),
    ("backbone: {preset: S}", "backbone: {preset: S}\nema: {decay: fast}", 'recipe.yaml:5: ema.decay must be a number, not "fast"'),
    ("  global_batch: 8", "  global_batch: 30\n  devices: 4", "recipe.yaml:8: trainer.global_batch: 30 does not divide into devices 4 × num_nodes 1 × accumulation 1 = 4 equal parts; 28 and 32 do"),
    ("  global_batch: 8", "  global_batch: 8\n  devices: all", 'recipe.yaml:9: trainer.devices must be an integer or "auto", not "all"'),
]

# An override of the valid recipe, the message.
OVERRIDES = [
    ("lr=1e-3", 'unknown key "lr"; did you mean "optimizer.lr"?'),
    ("optimizer.lrr=1e-3", 'unknown key "optimizer.lrr"; did you mean "lr"?'),
    ("seed", 'bad override "seed"; write key.sub=value'),
    ("--seed=3", 'bad override "--seed=3"; overrides have no dashes'),
    ("=3", 'bad override "=3"; write key.sub=value, with no empty key'),
    ("a..b=3", 'bad override "a..b=3"; write key.sub=value, with no empty key'),
    ("seed=", 'bad override "seed="; there is no value; seed=null goes back to the default'),
    ("base=quickstart", 'bad override "base=quickstart"; base is set in a recipe file only'),
    ("backbone.window=[1,2", 'backbone.window must be a list of 3 integers or "auto", and what is written is broken YAML while parsing a flow sequence: expected \',\' or \']\', but got \'<stream end>\''),
    ("seed=-1", "seed must be at least 0, not -1"),
    ("seed.x=3", "seed must be an integer, not a mapping"),
    ("trainer.max_steps=null", "trainer.max_steps is missing (Length of the training, in optimizer steps.)"),
    ("seed=${trainer.max_stepz}", 'cannot resolve "${trainer.max_stepz}": Interpolation key \'trainer.max_stepz\' not found; did you mean "trainer.max_steps"?'),
    ("seed=${optimizer.lr}", 'cannot resolve "${optimizer.lr}": Interpolation key \'optimizer.lr\' not found; only keys that are written in the recipe can be referred to'),
    ("seed=${seed}", 'cannot resolve "${seed}": Recursive interpolation detected'),
    ("seed=${trainer", r'"${trainer" is a broken interpolation; write ${trainer.max_steps}, and a plain ${ as \${'),
    ("logging.runs_dir=${oc.env:HOME}", '"${oc.env:HOME}" calls a resolver; a recipe may refer only to its own keys, as in ${trainer.max_steps}'),
]

# A recipe's name, the message.
NAMES = [
    ("quikstart", 'no recipe "quikstart": there is no such file, and none of that name ships with t2x; did you mean "quickstart"?'),
    ("small/foler", 'no recipe "small/foler": there is no such file, and none of that name ships with t2x; did you mean "small/folder"?'),
    ("myne.yaml", 'no recipe "myne.yaml": there is no such file, and none of that name ships with t2x; did you mean "mine.yaml"?'),
    ("zzz", 'no recipe "zzz": there is no such file, and none of that name ships with t2x; `t2x recipes` lists those that ship'),
    ("../here", '"../here" is a folder, not a recipe; write ../here/mine.yaml'),
]
# fmt: on


def message_of(load: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        load()
    return str(caught.value)


@pytest.mark.parametrize(("recipe", "message"), FILES)
def test_file(load: Callable[..., Recipe], recipe: str | bytes, message: str) -> None:
    assert message_of(lambda: load(recipe)) == message


@pytest.mark.parametrize(("piece", "wrong", "message"), EDITS)
def test_edit(load: Callable[..., Recipe], valid: str, piece: str, wrong: str, message: str) -> None:
    assert piece in valid
    assert message_of(lambda: load(valid.replace(piece, wrong))) == message


@pytest.mark.parametrize(("override", "message"), OVERRIDES)
def test_override(load: Callable[..., Recipe], valid: str, override: str, message: str) -> None:
    assert message_of(lambda: load(valid, override)) == f"command line: {message}"


@pytest.mark.parametrize(("name", "message"), NAMES)
def test_name(here: Path, valid: str, name: str, message: str) -> None:
    (here / "mine.yaml").write_text(valid)
    assert message_of(lambda: find_recipe(name)) == f"command line: {message}"


def test_bases_that_need_each_other(here: Path, load: Callable[..., Recipe], valid: str) -> None:
    (here / "a.yaml").write_text("seed: 1\nbase: [b.yaml]\n")
    (here / "b.yaml").write_text("base: a.yaml\n")
    recipe = "base: a.yaml\n" + valid
    assert message_of(lambda: load(recipe)) == "b.yaml:1: base goes in a circle: a.yaml → b.yaml → a.yaml"
    (here / "b.yaml").write_text("base: c.yaml\n")
    assert message_of(lambda: load(recipe)) == (
        'b.yaml:1: no base "c.yaml": there is no such file beside this one, and none of that name ships with t2x '
        "(needed by recipe.yaml → a.yaml → b.yaml)"
    )


def test_a_mistake_in_a_base_is_shown_there(here: Path, load: Callable[..., Recipe], valid: str) -> None:
    (here / "pieces").mkdir()
    (here / "pieces" / "cpu.yaml").write_text("trainer:\n  thread: 2\n")
    message = message_of(lambda: load("base: pieces/cpu.yaml\n" + valid))
    assert message == 'pieces/cpu.yaml:2: unknown key "trainer.thread"; did you mean "threads"?'


def test_core_mistakes_come_before_any_plugin(here: Path, valid: str) -> None:
    (here / "recipe.yaml").write_text(valid.replace("images", "videos") + "logging: {sampels: 3}\n")

    def plugins(*_: str) -> type:
        raise AssertionError("a plugin was asked")

    message = message_of(lambda: check_recipe(compose("recipe.yaml"), plugins))
    assert message_of(lambda: check_core(compose("recipe.yaml"))) == message
    assert message == 'recipe.yaml:9: unknown key "logging.sampels"; did you mean "samples"?'


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "tasks.images.data.sides=[32, 30]",
            "command line: tasks.images.data.sides[1]: 30 pixels do not divide into tokens of 4 (codec 1 × backbone.patch_size 4); 28 and 32 do",
        ),
        (
            "backbone.patch_size=7",
            "recipe.yaml:3: tasks.images.data.sides[0]: 32 pixels do not divide into tokens of 7 (codec 1 × backbone.patch_size 7); 28 and 35 do",
        ),
        (
            "backbone.window=[1, 9, 2]",
            "command line: backbone.window: 9 × 2 tokens are more than there are: the largest sample has 8 × 8; write auto, or a smaller window",
        ),
    ],
)
def test_sizes_patches_and_windows_that_do_not_fit(
    load: Callable[..., Recipe], valid: str, override: str, message: str
) -> None:
    recipe = valid.replace("preset: S", "preset: S, patch_size: 4")
    assert load(recipe, "backbone.window=[4, 8, 8]").backbone.window == (4, 8, 8)  # more frames than there are
    assert load(recipe, "tasks.images.data.sides=[32, 64]", "backbone.window=[1, 16, 16]")  # fits one of them
    assert load(recipe, "backbone.window=[1, 9, 9]", "backbone.attention=dense")  # has no windows
    assert message_of(lambda: load(recipe, override)) == message


def test_what_is_not_known_yet_is_left_for_later(here: Path, valid: str) -> None:
    (here / "recipe.yaml").write_text(valid.replace("{}", "{weight: 0}"))
    assert check_recipe(compose("recipe.yaml"), lambda kind, name: None) is None
    with pytest.raises(UserError, match="weight must be above 0"):
        check_recipe(compose("recipe.yaml"), lambda kind, name: schema_of(kind, name) if kind == "task" else None)


def test_a_mistake_that_names_its_key_gets_its_place(here: Path, valid: str) -> None:
    (here / "recipe.yaml").write_text(valid.replace("{}", "\n    data:\n      note: hi"))
    composed = compose("recipe.yaml")

    def place(path: str, **named: str) -> str:
        with pytest.raises(UserError) as caught, composed.error_location(path):
            raise UserError("is wrong", **named)
        return str(caught.value)

    assert place("tasks.images", key="data.note") == "recipe.yaml:5: tasks.images.data.note: is wrong"
    assert place("tasks.images", key="data.size") == "recipe.yaml:4: tasks.images.data.size: is wrong"  # a default
    assert place("ema", key="decay", hint="mend it") == "recipe.yaml: ema.decay: is wrong; mend it"
    assert place("tasks.images") == "recipe.yaml:3: tasks.images: is wrong"
    assert place("tasks.images", where="x.png") == "x.png: is wrong"


def test_unreadable_file(here: Path, load: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    (here / "mine.yaml").touch()
    message = message_of(lambda: compose("mine.yaml"))
    assert message == "mine.yaml: cannot be read: Permission denied"


def test_user_error_is_one_line_and_survives_a_process_border() -> None:
    error = UserError("first\nsecond", where="a.yaml:3", hint="do this")
    assert str(error) == "a.yaml:3: first second; do this"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(UserError("alone")) == "alone"


def test_did_you_mean() -> None:
    assert did_you_mean("Bachbone", ["Backbone", "codec"]) == 'did you mean "Backbone"?'
    assert did_you_mean("zzz", ["backbone", "codec"]) == ""
