from __future__ import annotations

import pytest
import torch
from torch import nn

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.checkpoint import materialize, open_checkpoint
from t2x_core.errors import UserError
from t2x_core.generation import T2XPipeline
from t2x_core.optim import GradientClipping, build_optimizer, learning_rate_factor, state_bytes
from t2x_core.recipe import OptimizerConfig, to_plain
from t2x_core.training.fit import fit
from t2x_core.training.run_folder import write_run
from tests.conftest import TINY


def with_gradients(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    torch.manual_seed(0)
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    for _, p in named:
        p.grad = torch.randn_like(p)
    return named


@pytest.mark.parametrize("limit", [1.0, 1e6, None])
def test_it_clips_as_torch_does(tiny, limit):
    named = with_gradients(build_module(tiny))
    before = [p.grad.clone() for _, p in named]
    squares = GradientClipping(named, limit)()
    clipped = [p.grad.clone() for _, p in named]

    for (_, p), gradient in zip(named, before, strict=True):
        p.grad = gradient
    norm = nn.utils.clip_grad_norm_([p for _, p in named], float("inf") if limit is None else limit)
    torch.testing.assert_close(squares.sum().sqrt(), norm)
    for (_, p), gradient in zip(named, clipped, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_the_norm_of_a_part_is_that_of_its_parameters(tiny):
    named = with_gradients(build_module(tiny))
    clipping = GradientClipping(named, None)
    squares = dict(zip(clipping.parts, clipping().tolist(), strict=True))
    mlps = sum(p.grad.square().sum().item() for name, p in named if ".blocks." in name and ".mlp." in name)
    assert squares["backbone.mlp"] == pytest.approx(mlps, rel=1e-5)
    words = sum(p.grad.square().sum().item() for name, p in named if name.startswith("text_encoder."))
    assert squares["text_encoder"] == pytest.approx(words, rel=1e-5)
    assert {"backbone.attention", "backbone.head", "adapters.text-to-image"} < set(squares)
    assert not any("0" in part for part in squares)


def test_parameters_without_a_gradient_are_left_alone(tiny):
    named = with_gradients(build_module(tiny))
    for name, p in named:
        if name.startswith("adapters."):
            p.grad = None
    clipping = GradientClipping(named, 1.0)
    squares = dict(zip(clipping.parts, clipping().tolist(), strict=True))
    assert squares["adapters.text-to-image"] == 0
    norm = torch.stack([p.grad.square().sum() for _, p in named if p.grad is not None]).sum().sqrt()
    torch.testing.assert_close(norm, torch.tensor(1.0), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["adamw", "muon", "lion"])
def test_an_optimizer_trains_and_goes_on_exactly(name, tmp_path):
    def train(folder, steps, resume=False):
        settings = [*TINY, f"optimizer.name={name}", "optimizer.schedule=constant", f"trainer.max_steps={steps}"]
        assembly = load_assembly("quickstart", settings)
        module = build_module(assembly)
        fit(assembly, module, build_data(assembly, module), tmp_path / folder, resume=resume)
        return materialize(open_checkpoint(tmp_path / folder, "last")[1]["state_dict"])

    whole = train("whole", 4)
    train("parts", 2)
    parts = train("parts", 4, resume=True)
    start = dict(build_module(load_assembly("quickstart", TINY)).trainable())
    for key, weight in whole.items():
        assert torch.equal(parts[key], weight), key
        assert weight.isfinite().all()
    assert sum(not torch.equal(start[key], weight) for key, weight in whole.items()) > 0.9 * len(whole)


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest(tiny):
    module = build_module(tiny)
    optimizer = build_optimizer(module.trainable(), OptimizerConfig(name="muon", weight_decay=0.1))
    names = {id(p): name for name, p in module.trainable()}
    for group in optimizer.param_groups:
        for p in group["params"]:
            matrix = names[id(p)].endswith("weight") and p.ndim > 1
            assert group["use_fallback"] == (not (matrix and ".blocks." in names[id(p)]))
            assert group["weight_decay"] == (0.1 if matrix else 0)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


def test_learning_rates_are_scaled_by_name_and_the_first_pattern_counts(tiny):
    module = build_module(tiny)
    config = OptimizerConfig(lr=0.01, lr_scale={"backbone.head.*": 0.5, "backbone.*": 2.0})
    names = {id(p): name for name, p in module.trainable()}
    for group in build_optimizer(module.trainable(), config).param_groups:
        for p in group["params"]:
            name = names[id(p)]
            factor = 0.5 if name.startswith("backbone.head.") else 2.0 if name.startswith("backbone.") else 1.0
            assert group["lr"] == 0.01 * factor
    with pytest.raises(UserError, match=r'"bakbone\.\*" fits no parameter'):
        build_optimizer(module.trainable(), OptimizerConfig(lr_scale={"bakbone.*": 0.5}))


def test_wsd_is_level_and_falls_at_the_end():
    config = OptimizerConfig(warmup_steps=10, schedule="wsd", decay_share=0.2, final_lr_ratio=0.1)
    factors = [learning_rate_factor(step, config, 100) for step in (0, 9, 10, 80, 90, 100)]
    assert factors == pytest.approx([0.1, 1, 1, 1, 0.55, 0.1])


@pytest.mark.parametrize("name", ["adamw", "muon", "lion"])
def test_the_memory_of_an_optimizer_is_what_it_keeps(tiny, name):
    module, config = build_module(tiny), OptimizerConfig(name=name)
    named = with_gradients(module)
    optimizer = build_optimizer(named, config)
    optimizer.step()
    kept = [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v) and v.ndim]
    assert sum(v.nbytes for v in kept) == state_bytes(named, config)


FROZEN = [*TINY, "optimizer.freeze=[text_encoder.*, backbone.blocks.0.*]", "optimizer.schedule=constant"]


def fits_frozen(name: str) -> bool:
    return name.startswith(("text_encoder.", "backbone.blocks.0."))


@pytest.mark.parametrize("name", ["adamw", "muon", "lion"])
def test_what_is_frozen_stays_as_the_seed_made_it_and_is_saved(name, tmp_path):
    def train(folder, steps, resume=False):
        assembly = load_assembly("quickstart", [*FROZEN, f"optimizer.name={name}", f"trainer.max_steps={steps}"])
        module = build_module(assembly)
        (tmp_path / folder).mkdir(exist_ok=True)
        write_run(tmp_path / folder, to_plain(assembly.recipe))
        fit(assembly, module, build_data(assembly, module), tmp_path / folder, resume=resume)
        return module

    whole = train("whole", 4)
    train("parts", 2)
    parts = train("parts", 4, resume=True)
    start = dict(build_module(load_assembly("quickstart", TINY)).named_parameters())
    for key, p in whole.named_parameters():
        assert torch.equal(p, dict(parts.named_parameters())[key]), key
        if fits_frozen(key):
            assert torch.equal(p, start[key]), key
    saved = open_checkpoint(tmp_path / "parts", "last")[1]
    assert not any(map(fits_frozen, saved["ema"]["weights"]))
    assert {key for key in saved["state_dict"] if fits_frozen(key)} == {key for key in start if fits_frozen(key)}
    assert not torch.equal(whole.backbone.blocks[1].table, start["backbone.blocks.1.table"])

    pipelines = [T2XPipeline.from_pretrained(tmp_path / run) for run in ("whole", "parts")]
    pixels = [pipeline("a red circle").pixels for pipeline in pipelines]
    assert torch.equal(*pixels)
    sampled = dict(pipelines[1].module.named_parameters())
    assert all(torch.equal(sampled[key], start[key]) for key in start if fits_frozen(key))


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        ("[bakbone.*]", '"bakbone.*" fits no parameter that trains'),
        ("[codec.*]", '"codec.*" fits no parameter that trains'),
        ("[backbone.*, text_encoder.*, adapters.*]", "nothing is left to train"),
    ],
)
def test_freezing_nothing_or_everything_is_a_mistake(patterns, says):
    with pytest.raises(UserError) as caught:
        build_module(load_assembly("quickstart", [*TINY, f"optimizer.freeze={patterns}"]))
    assert str(caught.value).startswith(f"command line: optimizer.freeze: {says}")


def test_a_parameter_may_fit_two_patterns_of_freeze():
    module = build_module(load_assembly("quickstart", [*TINY, "optimizer.freeze=[backbone.*, backbone.head.*]"]))
    assert {name.split(".")[0] for name, _ in module.trainable()} == {"text_encoder", "adapters"}
