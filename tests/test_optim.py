from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.checkpoint import materialize, open_checkpoint
from t2x_core.errors import UserError
from t2x_core.generation import T2XPipeline
from t2x_core.optim import GradientClipping, build_optimizer, learning_rate_factor, mark_tables, state_bytes
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
    words = sum(p.grad.square().sum().item() for name, p in named if name.startswith("text_encoders."))
    assert squares["text_encoders.bytes"] == pytest.approx(words, rel=1e-5)
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
        overrides = [*TINY, f"optimizer.name={name}", "optimizer.schedule=constant", f"trainer.max_steps={steps}"]
        assembly = load_assembly("quickstart", overrides)
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
            matrix = (
                names[id(p)].endswith("weight") and p.ndim > 1 and names[id(p)] != "text_encoders.bytes.byte.weight"
            )
            assert group["use_fallback"] == (not (matrix and ".blocks." in names[id(p)]))
            assert group["weight_decay"] == (0.1 if matrix else 0)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


def walk(optimizer, parameters, steps, seed=0):
    """The values of the parameters after each step, with gradients that begin large, and pauses."""
    generator, ways = torch.Generator().manual_seed(seed), []
    for step in range(steps):
        for i, p in enumerate(parameters):
            gradient = torch.randn(p.shape, generator=generator) * 10.0 ** (1 - step % 5) + 0.1
            p.grad = None if (step + i) % 4 == 3 else gradient  # what a step does not use it leaves alone
        optimizer.step()
        ways.append([p.detach().clone() for p in parameters])
    return ways


SHAPES = {"backbone.head.linear.weight": (7, 5), "backbone.head.linear.bias": (7,), "adapters.a.no_caption": (6,)}


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("eps", [1e-8, 1e-3, 1.0])
@pytest.mark.parametrize("decay", [0.0, 0.1, 3.0])
def test_adamw_and_the_rest_of_muon_are_the_adamw_of_torch(name, eps, decay):
    """Parameter by parameter, step by step; decay is of the matrix alone."""
    torch.manual_seed(0)
    ours = {key: nn.Parameter(torch.randn(shape)) for key, shape in SHAPES.items()}
    theirs = [nn.Parameter(p.detach().clone()) for p in ours.values()]
    config = OptimizerConfig(name=name, lr=0.02, eps=eps, weight_decay=decay, betas=(0.8, 0.95), momentum=0.5)
    groups = [{"params": [p], "weight_decay": decay if p.ndim > 1 else 0.0} for p in theirs]
    expected = walk(torch.optim.AdamW(groups, lr=0.02, betas=(0.8, 0.95), eps=eps), theirs, 60)
    found = walk(build_optimizer(ours.items(), config), list(ours.values()), 60)
    for step, (mine, reference) in enumerate(zip(found, expected, strict=True)):
        for key, one, other in zip(SHAPES, mine, reference, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5, msg=f"{key} at step {step}")
    assert (found[-1][0] - found[0][0]).abs().max() > 0.01


def orthogonalized(x):
    """Five steps of the quintic iteration of Newton and Schulz with the coefficients of Muon's later versions."""
    steps = [
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ]
    u, s, v = torch.linalg.svd(x.double(), full_matrices=False)
    s = s / s.square().sum().sqrt()
    for a, b, c in steps:  # it acts on the singular values alone
        s = a * s + b * s**3 + c * s**5
    return u * s @ v


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16), (2, 300), (1, 9)])
def test_the_matrices_of_muon_follow_its_formula(shape):
    """Also those of shapes that timm would leave to its NAdamW: few rows, or long ones."""
    torch.manual_seed(1)
    lr, decay, momentum = 0.02, 0.3, 0.9
    p = nn.Parameter(torch.randn(shape))
    config = OptimizerConfig(name="muon", lr=lr, weight_decay=decay, momentum=momentum, eps=1e-8)
    optimizer = build_optimizer([("backbone.blocks.0.mlp.0.weight", p)], config)
    mine, buffer = p.detach().double(), torch.zeros(shape, dtype=torch.float64)
    for _ in range(5):
        p.grad = torch.randn(shape)
        buffer = momentum * buffer + (1 - momentum) * p.grad
        nesterov = momentum * buffer + (1 - momentum) * p.grad
        mine = mine * (1 - lr * decay) - lr * 0.2 * max(shape) ** 0.5 * orthogonalized(nesterov)
        optimizer.step()
        size = lr * 0.2 * max(shape) ** 0.5
        assert (p - mine).norm() < 0.05 * size * min(shape) ** 0.5 * 5  # its products are bfloat16
    for state in optimizer.state.values():
        assert {key for key, value in state.items() if torch.is_tensor(value)} == {"momentum_buffer"}


def test_lion_follows_its_formula():
    """Chen et al. 2023, algorithm 2."""
    torch.manual_seed(2)
    lr, decay, (b1, b2) = 0.01, 0.5, (0.8, 0.95)
    p = nn.Parameter(torch.randn(6, 4))
    optimizer = build_optimizer(
        [("a.weight", p)], OptimizerConfig(name="lion", lr=lr, weight_decay=decay, betas=(b1, b2))
    )
    mine, average = p.detach().clone(), torch.zeros(6, 4)
    for _ in range(20):
        p.grad = torch.randn(6, 4)
        mine = mine - lr * ((b1 * average + (1 - b1) * p.grad).sign() + decay * mine)
        average = b2 * average + (1 - b2) * p.grad
        optimizer.step()
        torch.testing.assert_close(p.detach(), mine)


def test_what_is_no_matrix_is_not_decayed_whatever_its_name_and_number_of_axes():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.bag = nn.Embedding(4, 3), nn.EmbeddingBag(4, 3)
            self.norm, self.rms, self.group = nn.LayerNorm((4, 3)), nn.RMSNorm((4, 3)), nn.GroupNorm(2, 4)
            self.linear, self.conv = nn.Linear(3, 4), nn.Conv2d(3, 4, 2)
            self.null_token, self.position_weight = nn.Parameter(torch.zeros(1, 3)), nn.Parameter(torch.zeros(5, 3))
            self.position_weight._no_weight_decay = True  # an author's own mark

    odd = Odd()
    mark_tables(odd)
    names = {id(p): name for name, p in odd.named_parameters()}
    for optimizer in ("adamw", "lion", "muon"):
        groups = build_optimizer(odd.named_parameters(), OptimizerConfig(name=optimizer, weight_decay=0.1)).param_groups
        decayed = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
        assert decayed == {"linear.weight", "conv.weight"}


def test_an_embedding_is_not_decayed_by_a_run(tmp_path):
    """Bytes that no caption has keep their rows to the last bit; with decay all would shrink."""
    overrides = [*TINY, "optimizer.weight_decay=10", "optimizer.lr=0.01", "optimizer.schedule=constant"]
    assembly = load_assembly("quickstart", overrides)
    module = build_module(assembly)
    before = module.text_encoders["bytes"].byte.weight.detach().clone()
    fit(assembly, module, build_data(assembly, module), tmp_path)
    after = module.text_encoders["bytes"].byte.weight.detach()
    unread = [1 + byte for byte in (0, 7, 200, 255)]
    assert torch.equal(after[unread], before[unread])
    assert not torch.equal(after, before)


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


def plain_rate(step, schedule, warmup, share, final, steps):
    """The rate at the end of `step` steps of a polyline or a cosine, written as a user would draw it."""
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        done = 1.0 if step >= steps > warmup else (step - warmup) / max(1, steps - warmup)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    begin = max(steps * (1 - share), min(warmup, steps - 1))
    return float(np.interp(step, [begin, steps], [1.0, final]))


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(["constant", "cosine", "wsd"]),
    st.integers(0, 300),
    st.floats(0, 1, exclude_min=True),
    st.floats(0, 1),
    st.integers(1, 250),
)
@example("wsd", 90, 0.2, 0.0, 100)
@example("wsd", 10, 1.0, 0.0, 100)
@example("wsd", 500, 0.2, 0.0, 100)
@example("cosine", 100, 0.2, 0.0, 100)
@example("wsd", 0, 1e-9, 0.5, 7)
def test_a_schedule_is_continuous_never_negative_and_ends_where_it_says(schedule, warmup, share, final, steps):
    config = OptimizerConfig(
        warmup_steps=warmup, schedule=schedule, decay_share=share, final_lr_ratio=final, weight_decay=0
    )
    rates = [learning_rate_factor(step, config, steps) for step in range(steps + 5)]
    assert all(0 <= rate <= 1 for rate in rates)
    expected = [plain_rate(step, schedule, warmup, share, final, steps) for step in range(steps + 5)]
    assert rates == pytest.approx(expected, abs=1e-9)
    fall = max(1.0, min(share * steps, steps - warmup)) if schedule == "wsd" else max(1, steps - warmup) * 2 / math.pi
    steepest = max(1 / max(warmup, 1), (1 - final) / fall)
    jumps = [abs(b - a) for a, b in pairwise(rates[:steps])]
    assert not jumps or max(jumps) <= steepest + 1e-9
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    if warmup < steps:
        assert rates[steps] == pytest.approx(1.0 if schedule == "constant" else final, abs=1e-9)


@pytest.mark.parametrize("name", ["adamw", "muon", "lion"])
def test_the_memory_of_an_optimizer_is_what_it_keeps(tiny, name):
    module, config = build_module(tiny), OptimizerConfig(name=name)
    named = with_gradients(module)
    optimizer = build_optimizer(named, config)
    optimizer.step()
    kept = [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v) and v.ndim]
    assert sum(v.nbytes for v in kept) == state_bytes(named, config)


FROZEN = [*TINY, "optimizer.freeze=[text_encoders.*, backbone.blocks.0.*]", "optimizer.schedule=constant"]


def fits_frozen(name: str) -> bool:
    return name.startswith(("text_encoders.", "backbone.blocks.0."))


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
        ("[backbone.*, text_encoders.*, adapters.*]", "nothing is left to train"),
    ],
)
def test_freezing_nothing_or_everything_is_a_mistake(patterns, says):
    with pytest.raises(UserError) as caught:
        build_module(load_assembly("quickstart", [*TINY, f"optimizer.freeze={patterns}"]))
    assert str(caught.value).startswith(f"command line: optimizer.freeze: {says}")


def test_a_parameter_may_fit_two_patterns_of_freeze():
    module = build_module(load_assembly("quickstart", [*TINY, "optimizer.freeze=[backbone.*, backbone.head.*]"]))
    assert {name.split(".")[0] for name, _ in module.trainable()} == {"text_encoders", "adapters"}
