"""LoRAs against formulas; what trains, and what is stored."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.backbone import PTDiT, PTDiTConfig
from t2x_core.checkpoint import materialize
from t2x_core.cli.main import main
from t2x_core.errors import UserError
from t2x_core.generation import T2XPipeline
from t2x_core.initial import open_start
from t2x_core.lora.network import find_layers
from t2x_core.recipe import to_plain
from t2x_core.sampling import sample
from t2x_core.training import fit, run_folder
from t2x_core.types import Bucket, Conditioning, ConditioningDims
from tests.conftest import TINY
from tests.lora.lora_runs import DIMS, FAST, KINDS, PROMPT, RANK, last, network, pixels, trained


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
