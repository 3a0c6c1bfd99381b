"""Each mistake with a LoRA is one line."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from t2x_core.assembly import build_module, load_assembly
from t2x_core.checkpoint import materialize
from t2x_core.cli.main import main
from t2x_core.errors import UserError
from t2x_core.fine_tuned import open_lora
from t2x_core.generation import T2XPipeline
from t2x_core.initial import open_start
from t2x_core.lora.files import read_lora
from tests.conftest import TINY
from tests.lora.lora_runs import PROMPT, RANK, last, trained


def test_a_lora_of_another_network_is_refused_and_of_other_weights_warned_of(runs, tmp_path, caplog):
    small = [setting for setting in TINY if "width" not in setting]
    for settings, why in (
        ([*small, "backbone.width=64"], r"blocks.0.\S+ is \d+×64 here, \d+×32 there"),
        ([*TINY, "backbone.depth=1"], r"there is no layer blocks.1.\S+ in this one"),
    ):
        assembly = load_assembly("quickstart", settings)
        pipeline = T2XPipeline(assembly, build_module(assembly))
        with pytest.raises(UserError, match=f"{runs['lora']} is of another network: {why}"):
            pipeline.load_lora(runs["lora"])
    assembly = load_assembly("quickstart", [*TINY, "seed=9"])
    T2XPipeline(assembly, build_module(assembly)).load_lora(runs["lora"])
    (line,) = [record.getMessage() for record in caplog.records if "trained on other weights" in record.getMessage()]
    assert "\n" not in line


def test_a_base_that_is_another_now_is_refused(base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    run = trained(tmp_path / "run", f"backbone.weights={tmp_path / 'base'}", RANK)
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(UserError, match=r"backbone\.weights"):
        T2XPipeline.from_pretrained(run, device="cpu")
    trained(tmp_path / "base", "seed=7")
    with pytest.raises(UserError, match=r"the weights of backbone from .* are not those that the run was trained with"):
        T2XPipeline.from_pretrained(run, device="cpu")


def test_pickles_are_refused(tmp_path, base, capsys):
    (tmp_path / "x.pt").write_bytes(b"")
    torch.save({}, tmp_path / "adapter_model.bin")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4}))
    for place in (tmp_path / "x.pt", tmp_path, tmp_path / "adapter_model.bin"):
        assert main(["sample", str(base), PROMPT, "--out", str(tmp_path / "x.png"), "--lora", str(place)]) == 2
        assert "may be a pickle, which can run code" in one_line(capsys)


def one_line(capsys) -> str:
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"diffusion_model.blocks.0.mlp.0.lora_A.weight": (2, 4)}, "half of an update of blocks.0.mlp.0: lora_A"),
        ({"blocks.0.mlp.0.weight": (4, 4)}, "blocks.0.mlp.0.weight is no update of a linear layer"),
        ({}, "holds no LoRA"),
    ],
)
def test_other_files_are_refused_in_one_line(content, why, tmp_path):
    save_file({name: torch.zeros(shape) for name, shape in content.items()}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=why):
        read_lora(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (("backbone.lora.rank=4",), "a LoRA needs weights that it updates; set backbone.weights"),
        (
            ("backbone.weights=x", "backbone.lora.kind=lokr", "backbone.lora.dora=true"),
            "dora goes with kind: lora only",
        ),
        (
            ("backbone.weights=x", "backbone.lora.dora=true", "trainer.compile=true"),
            "dora does not go with trainer.compile",
        ),
        (("backbone.weights=x", 'backbone.lora.train=["head.*"]'), "neither of an adapter nor of a text encoder"),
        (("backbone.weights=x", "backbone.lora.rank=0"), "must be at least 1"),
    ],
)
def test_mistakes_in_a_recipe_are_found_before_anything_is_loaded(settings, why):
    with pytest.raises(UserError, match=why):
        load_assembly("quickstart", [*TINY, *settings])


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ('targets=["blocks.*.mpl.*"]', '"blocks.*.mpl.*" fits no linear layer of the backbone'),
        ('train=["adapters.x.*"]', '"adapters.x.*" fits no parameter that could train'),
    ],
)
def test_patterns_that_fit_nothing_are_named(setting, why):
    assembly = load_assembly("quickstart", [*TINY, "backbone.weights=x", f"backbone.lora.{setting}"])
    with pytest.raises(UserError) as caught:
        build_module(assembly)
    assert why in str(caught.value)
    assert "command line" in str(caught.value)


def test_a_base_that_lacks_an_adapter_says_which_to_train(base, tmp_path):
    weights = materialize(last(base)["ema"]["weights"])
    save_file({n: t for n, t in weights.items() if not n.startswith("adapters")}, tmp_path / "x.safetensors")
    settings = [*TINY, f"backbone.weights={tmp_path / 'x.safetensors'}", RANK]
    assembly = load_assembly("quickstart", settings)
    module = build_module(assembly)
    with pytest.raises(UserError, match=r'adapters.text-to-image.no_caption; .*train: \["adapters.*"\]'):
        open_start(assembly, module).load(module)
    assembly = load_assembly("quickstart", [*settings, 'backbone.lora.train=["adapters.*"]'])
    module = build_module(assembly)
    open_start(assembly, module).load(module)


def test_a_lora_is_no_base(runs, base, tmp_path, capsys):
    assembly = load_assembly("quickstart", [*TINY, f"backbone.weights={runs['lora']}"])
    with pytest.raises(UserError, match="holds a LoRA alone; first make a whole model of it: t2x export"):
        open_start(assembly, build_module(assembly))
    with pytest.raises(UserError, match="was not trained with a LoRA"):
        open_lora(base)
    assert main(["export", str(base), "--merge", "--out", str(tmp_path / "x")]) == 2
    assert "was not trained with a LoRA; leave --merge out" in one_line(capsys)


PEFT = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
LAYER = "diffusion_model.blocks.0.mlp.0"
GOOD = {f"{LAYER}.lora_A.weight": torch.ones(2, 8), f"{LAYER}.lora_B.weight": torch.ones(8, 2)}


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"lora_alpha": float("nan")}, "an update is multiplied by nan"),
        ({"lora_alpha": 1e300}, r"an update is multiplied by 5e\+299"),
        ({"alpha_pattern": {"mlp.0": float("inf")}}, "an update is multiplied by inf"),
        ({"r": 0}, "a rank is out of range"),
        ({"rank_pattern": {"mlp.0": -1}}, "a rank is out of range"),
        ({"r": 2**70}, "a rank is out of range"),
    ],
)
def test_settings_that_give_no_finite_update_are_refused(config, why, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps(PEFT | config))
    save_file(GOOD, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=why):
        read_lora(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({f"{LAYER}.alpha": torch.tensor(float("nan"))}, "an update is multiplied by nan"),
        ({f"{LAYER}.alpha": torch.ones(0)}, "alpha is no number"),
        ({f"{LAYER}.alpha": torch.ones(3)}, "alpha is no number"),
        ({f"{LAYER}.lora_A.weight": torch.full((2, 8), float("nan"))}, "no finite number"),
        ({f"{LAYER}.lora_B.weight": torch.ones(8, 2, dtype=torch.int64)}, "no finite number"),
        ({f"{LAYER}.lora_B.weight": torch.ones(8, 3)}, "do not fit together"),
        ({f"{LAYER}.lora_A.weight": torch.ones(0, 8), f"{LAYER}.lora_B.weight": torch.ones(8, 0)}, "do not fit"),
        ({f"{LAYER}.dora_scale": torch.ones(5)}, "do not fit together"),
        ({f"{LAYER}.lora_down.weight": torch.ones(2, 8)}, "holds lora_A of blocks.0.mlp.0 twice"),
    ],
)
def test_tensors_that_are_no_finite_update_are_refused(tensors, why, tmp_path):
    save_file(GOOD | tensors, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=why):
        read_lora(tmp_path / "x.safetensors")


def test_factors_of_a_kronecker_product_that_do_not_fit_are_refused_and_float8_is_read(tmp_path):
    name = "diffusion_model.x.lokr_w"
    wrong = {f"{name}1_a": torch.ones(2, 3), f"{name}1_b": torch.ones(4, 2), f"{name}2": torch.ones(4, 4)}
    save_file(wrong, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="do not fit together"):
        read_lora(tmp_path / "x.safetensors")
    save_file({key: tensor.to(torch.float8_e4m3fn) for key, tensor in GOOD.items()}, tmp_path / "y.safetensors")
    (update,) = read_lora(tmp_path / "y.safetensors").layers.values()
    assert torch.equal(update.delta(), torch.full((8, 8), 2.0))
