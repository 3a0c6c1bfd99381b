"""LoRAs: against formulas and against the library peft; in and out of files; on the base that they were trained on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.backbone import PTDiT, PTDiTConfig
from t2x_core.checkpoint import checkpoints_of, materialize, read_checkpoint
from t2x_core.cli.lora_option import parse_loras
from t2x_core.cli.main import main
from t2x_core.errors import UserError
from t2x_core.fine_tuned import open_lora
from t2x_core.generation import T2XPipeline
from t2x_core.initial import open_start
from t2x_core.lora.files import read_lora, write_lora
from t2x_core.lora.layers import LayerUpdate, Lora
from t2x_core.lora.network import find_layers
from t2x_core.recipe import to_plain
from t2x_core.sampling import sample
from t2x_core.training import fit, run_folder
from t2x_core.types import Bucket, Conditioning, ConditioningDims
from tests.conftest import TINY

RANK = "backbone.lora.rank=4"
FAST = "optimizer.lr=0.05"
KINDS = {
    "lora": (RANK, "backbone.lora.alpha=12"),
    "rslora": (RANK, "backbone.lora.alpha=12", "backbone.lora.rslora=true"),
    "dora": (RANK, "backbone.lora.dora=true"),
    "lokr": ("backbone.lora.kind=lokr", "backbone.lora.rank=2", "backbone.lora.alpha=6"),
}
PROMPT = "a large red circle on the left"
DIMS = ConditioningDims(text=16)


def trained(folder: Path, *settings: str) -> Path:
    assembly = load_assembly("quickstart", [*TINY, "optimizer.lr=0.003", "ema.decay=0", *settings])
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "recipe.yaml").exists():
        run_folder.write_run(folder, to_plain(assembly.recipe))
    module = build_module(assembly)
    fit(assembly, module, build_data(assembly, module), folder, resume=True)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.set_num_threads(1)
    return trained(tmp_path_factory.mktemp("base") / "run")


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory):
    """Kind → a run that trained such a LoRA on `base`."""
    root = tmp_path_factory.mktemp("tuned")
    return {kind: trained(root / kind, f"backbone.weights={base}", FAST, *more) for kind, more in KINDS.items()}


def pixels(pipeline: T2XPipeline) -> torch.Tensor:
    return pipeline(PROMPT, seeds=3).pixels


def last(run: Path) -> dict:
    return read_checkpoint(checkpoints_of(run)[-1])


def network(**more: object) -> PTDiT:
    torch.manual_seed(0)
    model = PTDiT(PTDiTConfig(in_channels=3, width=32, depth=2, heads=2, attention="fused", dims=DIMS, **more))
    torch.nn.init.normal_(model.head.linear.weight, std=0.1)
    return model.eval()


def output(model: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(2, 3, 16, generator=generator)
    given = Conditioning(text=text, text_mask=torch.ones(2, 3, dtype=torch.bool))
    with torch.no_grad():
        return model(torch.randn(2, 3, 1, 8, 8, generator=generator), torch.tensor([0.3, 0.8]), given)


# Against formulas


def by_hand(kind: str, weight: torch.Tensor, t: dict[str, torch.Tensor], layer: str) -> torch.Tensor:
    """The weight that a layer of a run's network has, from the names that its checkpoint has."""
    name = f"backbone.{layer}"
    if kind == "lokr":
        w1 = t[f"{name}.lokr_w1.default"]
        whole = f"{name}.lokr_w2.default"
        w2 = t[whole] if whole in t else t[f"{name}.lokr_w2_a.default"] @ t[f"{name}.lokr_w2_b.default"]
        product = torch.einsum("ac,bd->abcd", w1, w2).reshape(weight.shape)
        return weight + 6 / 2 * product
    product = t[f"{name}.lora_B.default.weight"] @ t[f"{name}.lora_A.default.weight"]
    new = weight + {"lora": 12 / 4, "rslora": 12 / 4**0.5, "dora": 1.0}[kind] * product
    if kind == "dora":
        new = t[f"{name}.lora_magnitude_vector.default.weight"][:, None] * new / new.norm(dim=1, keepdim=True)
    return new


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_with_a_lora_computes_what_the_formula_says(kind, runs, base):
    """Trained, with peft's layers inside, against plain layers whose weights are made by hand; and so are samples."""
    assembly = load_assembly(str(runs[kind] / "recipe.yaml"), [])
    module = build_module(assembly)
    open_start(assembly, module).load(module)
    saved = materialize(last(runs[kind])["ema"]["weights"])
    module.load_state_dict(saved, strict=False)
    assert module.base is not None
    plain = build_module(load_assembly("quickstart", TINY))
    plain.load_state_dict(materialize(last(base)["ema"]["weights"]), strict=False)
    for layer in module.base.layers:
        linear = plain.backbone.get_submodule(layer)
        new = by_hand(kind, linear.weight.detach(), saved, layer)
        assert (new - linear.weight).abs().max() > 1e-3  # it has learned something
        linear.weight.data.copy_(new)
    task = assembly.task()
    found, expected = (
        sample(m, task.conditions([PROMPT]), [3], Bucket(1, 16, 16), assembly.recipe.diffusion.sampler)
        for m in (module, plain)
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    merged = T2XPipeline.from_pretrained(runs[kind], device="cpu")
    torch.testing.assert_close(pixels(merged), expected, atol=1e-5, rtol=0)
    assert (expected - pixels(T2XPipeline.from_pretrained(base, device="cpu"))).abs().max() > 1e-3
    assert (expected.abs() < 1).any()  # not all is clipped


@pytest.mark.parametrize("kind", KINDS)
def test_before_the_first_step_nothing_is_changed(kind, base):
    assembly = load_assembly("quickstart", [*TINY, f"backbone.weights={base}", *KINDS[kind]])
    module = build_module(assembly)
    open_start(assembly, module).load(module)
    plain = T2XPipeline.from_pretrained(base, device="cpu").module
    latents, t = torch.randn(2, 3, 1, 16, 16), torch.tensor([0.3, 0.8])
    text = Conditioning(
        text=torch.randn(2, 3, 16), text_mask=torch.ones(2, 3, dtype=torch.bool), vector=torch.zeros(2, 16)
    )
    with torch.no_grad():
        torch.testing.assert_close(module.eval().predict(latents, t, text)[0], plain.predict(latents, t, text)[0])


# What trains, and what is stored


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_is_as_it_was_to_the_last_bit_and_in_no_checkpoint(kind, base, tmp_path):
    assembly = load_assembly("quickstart", [*TINY, FAST, f"backbone.weights={base}", *KINDS[kind]])
    run_folder.write_run(tmp_path, to_plain(assembly.recipe))
    module = build_module(assembly)
    fit(assembly, module, build_data(assembly, module), tmp_path)
    expected = materialize(last(base)["ema"]["weights"])
    for name, tensor in module.network().items():
        assert torch.equal(tensor, expected.pop(name))
    assert not expected
    saved = last(tmp_path)
    assert saved["state_dict"].keys() == saved["ema"]["weights"].keys() == {name for name, _ in module.trainable()}
    assert all(".lora_" in name or ".lokr_" in name for name in saved["state_dict"])
    assert saved["referenced"].keys() == {"codec", "backbone", "adapters", "text_encoders"}


def test_adapters_are_trained_whole_if_the_recipe_says_so(base, tmp_path):
    run = trained(tmp_path / "run", f"backbone.weights={base}", RANK, 'backbone.lora.train=["adapters.*"]')
    whole = [name for name in last(run)["state_dict"] if ".lora_" not in name]
    assert whole == ["adapters.text-to-image.no_caption"]
    assert main(["export", str(run), "--out", str(tmp_path / "out")]) == 0
    assert load_file(tmp_path / "out/trained_whole.safetensors").keys() == set(whole)
    pipeline = T2XPipeline.from_pretrained(base, device="cpu")
    pipeline.load_lora(tmp_path / "out")
    expected = T2XPipeline.from_pretrained(run, device="cpu")
    own = pipeline.module.get_parameter(whole[0])
    assert torch.equal(own, materialize(last(run)["ema"]["weights"])[whole[0]])
    assert torch.equal(pixels(pipeline), pixels(expected))


def test_layers_of_several_widths_are_left_out_by_name():
    dims = ConditioningDims(text=16, vector=8)
    model = network(shared_by=(DIMS, replace(DIMS, vector=8)))
    layers, left_out = find_layers(model, ["*"])
    assert "patch_embedding" in left_out
    assert "text_projection.0" in left_out
    assert {"time_modulation", "head.linear", "blocks.1.mlp.2", "text_projection.2"} <= set(layers)
    assert not any("wider" in name for name in layers)
    with pytest.raises(UserError, match=r'"patch_emb.*" fits patch_embedding alone'):
        find_layers(model, ["patch_emb*"])
    default, none = find_layers(
        PTDiT(PTDiTConfig(in_channels=3, width=32, depth=1, heads=2, dims=dims)),
        ["blocks.*attention.*", "blocks.*.mlp.*"],
    )
    assert not none
    assert len(default) == 3 * 2 + 3 + 3 + 2  # three self-attentions, two cross-attentions, the MLP


# Files


@pytest.mark.parametrize("kind", KINDS)
def test_peft_reads_the_folder_onto_a_bare_network(kind, runs, base, tmp_path):
    assert main(["export", str(runs[kind]), "--out", str(tmp_path / "out")]) == 0
    bare = T2XPipeline.from_pretrained(base, device="cpu").module.backbone
    ours = T2XPipeline.from_pretrained(base, device="cpu")
    ours.load_lora(tmp_path / "out")
    theirs = peft.PeftModel.from_pretrained(bare, tmp_path / "out").eval()
    given = Conditioning(
        text=torch.randn(2, 3, 16), text_mask=torch.ones(2, 3, dtype=torch.bool), vector=torch.zeros(2, 16)
    )
    latents, t = torch.randn(2, 3, 1, 16, 16), torch.tensor([0.3, 0.8])
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(latents, t, given), ours.module.backbone(latents, t, given), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr"])
def test_a_folder_that_peft_wrote_is_read(kind, tmp_path):
    targets = ["blocks.0.mlp.0", "blocks.1.attention.qkv"]
    settings = {
        "lora": peft.LoraConfig(
            r=4, lora_alpha=8, target_modules=targets, rank_pattern={"mlp.0": 2}, alpha_pattern={"mlp.0": 6}
        ),
        "dora": peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, use_dora=True, use_rslora=True),
        "lokr": peft.LoKrConfig(r=40, alpha=8, target_modules=targets),  # both factors whole
    }[kind]
    theirs = peft.get_peft_model(network(), settings).eval()
    for name, p in theirs.named_parameters():
        if "lora" in name or "lokr" in name:
            torch.nn.init.normal_(p, std=0.2)
    theirs.save_pretrained(tmp_path / "theirs")
    found = read_lora(tmp_path / "theirs")
    write_lora(found, tmp_path / "again")
    assert found.base == ""
    for place in (tmp_path / "theirs", tmp_path / "again/lora.safetensors"):
        ours = network()
        for layer, update in read_lora(place).layers.items():
            linear = ours.get_submodule(layer)
            linear.weight.data.copy_(update.updated(linear.weight.detach()))
        torch.testing.assert_close(output(ours), output(theirs), atol=1e-5, rtol=1e-4)
    assert (output(ours) - output(network())).abs().max() > 1e-2


def test_the_single_file_is_as_comfyui_reads_it(runs, base, tmp_path):
    """Its loader's rule (comfy/weight_adapter/lora.py): W + strength · alpha / r · B A, without settings beside it."""
    assert main(["export", str(runs["rslora"]), "--out", str(tmp_path / "out")]) == 0
    file = load_file(tmp_path / "out/lora.safetensors")
    expected = T2XPipeline.from_pretrained(runs["rslora"], device="cpu").module.backbone
    weights = {
        f"diffusion_model.{n}": p
        for n, p in T2XPipeline.from_pretrained(base, device="cpu").module.backbone.named_parameters()
    }
    layers = {name.removesuffix(".alpha") for name in file if name.endswith(".alpha")}
    assert len(layers) * 3 == len(file)
    for layer in layers:
        down, up = file[f"{layer}.lora_A.weight"], file[f"{layer}.lora_B.weight"]
        new = weights[f"{layer}.weight"] + file[f"{layer}.alpha"].item() / down.shape[0] * up @ down
        own = expected.get_parameter(f"{layer.removeprefix('diffusion_model.')}.weight")
        torch.testing.assert_close(own, new, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_both_exports_give_the_picture_of_the_run(kind, runs, base, tmp_path):
    expected = pixels(T2XPipeline.from_pretrained(runs[kind], device="cpu"))
    out = tmp_path / "out"
    assert main(["export", str(runs[kind]), "--out", str(out)]) == 0
    for place in (out, out / "adapter_model.safetensors", out / "lora.safetensors", runs[kind]):
        pipeline = T2XPipeline.from_pretrained(base, device="cpu")
        pipeline.load_lora(place)
        torch.testing.assert_close(pixels(pipeline), expected, atol=1e-5, rtol=0)
    assert main(["export", str(runs[kind]), "--merge", "--out", str(tmp_path / "whole")]) == 0
    whole = T2XPipeline.from_pretrained(tmp_path / "whole", device="cpu")
    assert whole.assembly.recipe.backbone.lora is None
    torch.testing.assert_close(pixels(whole), expected, atol=1e-5, rtol=0)


def test_several_loras_add_up_with_their_weights(runs, base):
    def weights(*loras):
        pipeline = T2XPipeline.from_pretrained(base, device="cpu")
        for kind, weight in loras:
            pipeline.load_lora(runs[kind], weight)
        return pipeline.module.backbone.get_parameter("blocks.0.mlp.0.weight").detach()

    plain, one, two = weights(), weights(("lora", 1)), weights(("lokr", 1))
    both = weights(("lora", 0.5), ("lokr", -2))
    torch.testing.assert_close(both, plain + 0.5 * (one - plain) - 2 * (two - plain), atol=1e-5, rtol=0)
    half = weights(("dora", 0.25))
    torch.testing.assert_close(half, plain + 0.25 * (weights(("dora", 1)) - plain), atol=1e-6, rtol=0)


def test_other_names_of_the_same_are_read(tmp_path):
    """kohya's scripts: lora_down, lora_up, and layers with underscores."""
    down, up = torch.randn(2, 32), torch.randn(128, 2)
    names = {"lora_unet_blocks_0_mlp_0.lora_down.weight": down, "lora_unet_blocks_0_mlp_0.lora_up.weight": up}
    save_file({**names, "lora_unet_blocks_0_mlp_0.alpha": torch.tensor(1.0)}, tmp_path / "x.safetensors")
    pipeline = T2XPipeline(load_assembly("quickstart", TINY), build_module(load_assembly("quickstart", TINY)))
    own = pipeline.module.backbone.get_parameter("blocks.0.mlp.0.weight")
    before = own.detach().clone()
    pipeline.load_lora(tmp_path / "x.safetensors")
    torch.testing.assert_close(own.detach(), before + 0.5 * up @ down)


# Mistakes


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


# Sizes, the command


def test_a_lora_of_the_released_network_is_small():
    """At the shapes of qihoo_t2i_1b, the default block: at most 2 % of the bytes of the network in the same type."""
    assembly = load_assembly("text_to_image/qihoo_t2i_1b", ["backbone.lora.rank=8", "backbone.weights=x"])
    module = build_module(assembly, outline=True)
    updates = sum(p.numel() for n, p in module.backbone.named_parameters() if ".lora_" in n)
    assert updates / sum(p.numel() for p in module.backbone.parameters()) < 0.02
    assert Lora({"x": LayerUpdate({"lora_A": torch.zeros(2, 4), "lora_B": torch.zeros(3, 2)}, 1.0)}).nbytes == 4 * 14


def test_the_command_adds_loras_in_a_process_of_its_own(runs, base, tmp_path):
    assert main(["export", str(runs["lora"]), "--out", str(tmp_path / "out")]) == 0
    code = "import sys; from t2x_core.cli.main import main; sys.exit(main(sys.argv[1:]))"
    lora = f"{tmp_path / 'out/lora.safetensors'}:1.0"
    words = [PROMPT, "--seed", "3", "--out"]
    assert main(["sample", str(runs["lora"]), *words, str(tmp_path / "run.png")]) == 0
    other = ["sample", str(base), "--lora", lora, *words, str(tmp_path / "other.png")]
    done = subprocess.run([sys.executable, "-c", code, *other], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "run.png").tobytes() == Image.open(tmp_path / "other.png").tobytes()


def test_a_weight_is_what_follows_the_last_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a:2").mkdir()
    assert parse_loras(["a:2", "b:0.5", "c:d", "e:-1"]) == [("a:2", 1.0), ("b", 0.5), ("c:d", 1.0), ("e", -1.0)]
    for wrong in (":2", "b:nan"):
        with pytest.raises(UserError, match="--lora takes PATH"):
            parse_loras([wrong])
