"""LoRAs in and out of files, against the library peft; several at once; sizes; the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from t2x_core.assembly import build_module, load_assembly
from t2x_core.cli.lora_option import parse_loras
from t2x_core.cli.main import main
from t2x_core.errors import UserError
from t2x_core.generation import T2XPipeline
from t2x_core.lora.files import read_lora, write_lora
from t2x_core.lora.layers import LayerUpdate, Lora
from t2x_core.types import Conditioning
from tests.conftest import TINY
from tests.lora.lora_runs import KINDS, PROMPT, network, output, pixels


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


def test_weights_may_be_changed_and_loras_taken_off(runs, base):
    """To the last bit what a fresh pipeline with the same weights has; and the base when all are off."""

    def state(pipeline):
        return {name: tensor.clone() for name, tensor in pipeline.module.state_dict().items()}

    def fresh(**weights):
        pipeline = T2XPipeline.from_pretrained(base, device="cpu")
        for kind, weight in weights.items():
            pipeline.load_lora(runs[kind], weight)
        return pipeline

    def same(a, b):
        return all(torch.equal(a[name], b[name]) for name in b) and a.keys() == b.keys()

    plain, names = state(fresh()), {kind: str(runs[kind]) for kind in ("lora", "dora")}
    pipeline = fresh(lora=1, dora=0.5)
    assert pipeline.loras.weights == {names["lora"]: 1, names["dora"]: 0.5}
    pipeline.loras.set({names["lora"]: -0.3, names["dora"]: 1})
    assert same(state(pipeline), state(fresh(lora=-0.3, dora=1)))
    pipeline.loras.set({names["lora"]: 0, names["dora"]: 1})
    assert same(state(pipeline), state(fresh(dora=1)))
    pipeline.loras.set({names["lora"]: 2})
    assert same(state(pipeline), state(fresh(lora=2)))
    with pytest.raises(UserError, match="is loaded already"):
        pipeline.load_lora(runs["lora"])
    pipeline.loras.set({})
    assert same(state(pipeline), plain)
    with pytest.raises(UserError, match="is not loaded; there is none"):
        pipeline.loras.set({names["dora"]: 1})
    pipeline.load_lora(runs["dora"])
    assert same(state(pipeline), state(fresh(dora=1)))
    assert not same(state(pipeline), plain)


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
