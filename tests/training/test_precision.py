"""What `trainer.precision` means, and that each kind trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch import nn
from torch.optim import AdamW

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.generation import T2XPipeline
from t2x_core.interfaces import ConditioningAdapter
from t2x_core.losses import TaskLoss
from t2x_core.module import T2XModule
from t2x_core.recipe import to_plain
from t2x_core.training.fit import FitResult, fit
from t2x_core.training.precision import BFloat16, Float16Mixed, resolve_precision
from t2x_core.training.run_folder import write_run
from t2x_core.types import Batch, Conditioning, ConditioningDims
from tests.conftest import TINY


@pytest.mark.parametrize("asked", ["32-true", "bf16-mixed"])
def test_what_is_asked_for_is_given(asked):
    assert resolve_precision(asked, "cpu") == asked


@pytest.mark.parametrize(
    ("avx512", "amx", "expected"),
    [(False, False, "32-true"), (True, False, "bf16-mixed"), (False, True, "bf16-mixed")],
)
def test_auto_asks_the_cpu_for_bf16_units(avx512, amx, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert resolve_precision("auto", "cpu") == expected


@pytest.mark.parametrize(("has", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_asks_the_gpu(has, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has)
    assert resolve_precision("auto", "gpu") == expected
    assert resolve_precision("auto", "auto") == expected


def run(tmp_path: Path, *settings: str) -> tuple[T2XModule, FitResult]:
    assembly = load_assembly("quickstart", [*TINY, "trainer.max_steps=4", *settings])
    module = build_module(assembly)
    write_run(tmp_path, to_plain(assembly.recipe))
    return module, fit(assembly, module, build_data(assembly, module), tmp_path)


def test_bf16_true_trains_weights_in_bf16_and_samples_from_them(tmp_path):
    module, result = run(tmp_path, "trainer.precision=bf16-true")
    assert result.steps == 4
    assert {p.dtype for _, p in module.trainable()} == {torch.bfloat16}
    assert all(p.isfinite().all() for _, p in module.trainable())
    assert len(list((tmp_path / "samples").iterdir())) == 2
    shown = T2XPipeline.from_pretrained(tmp_path)("a red circle")
    assert shown.pixels.isfinite().all()


def test_what_bf16_true_leaves_in_float32(tiny):
    module = build_module(tiny)
    module.text_encoders.requires_grad_(False)
    codec_input, seen = [], []
    module.codec.part.encode = lambda pixels: codec_input.append(pixels.dtype) or pixels
    module.losses["text-to-image"] = TaskLoss(
        lambda velocity, noised, batch: (
            seen.extend([velocity.dtype, noised.latents.dtype, noised.t.dtype, noised.noise.dtype, batch.latents.dtype])
            or (velocity - noised.velocity).square().flatten(1).mean(1)
        )
    )
    BFloat16().convert_module(module)
    data = build_data(tiny, module)
    data.check()
    out = module.training_step(next(iter(data.train_loader(0, 1, lambda: 0))), 0)
    assert {*codec_input, *seen, out["loss"].dtype, out["t"].dtype} == {torch.float32}
    assert {p.dtype for p in module.text_encoders.parameters()} == {torch.float32}
    assert {p.dtype for p in module.backbone.parameters()} == {torch.bfloat16}


def test_an_adapter_reads_numbers_in_its_own_precision(tiny):
    class Cameras(ConditioningAdapter):
        def __init__(self):
            super().__init__()
            self.dims, self.linear = ConditioningDims(vector=32), nn.Linear(3, 32)

        def forward(self, batch, text, latent_shape):
            return Conditioning(vector=self.linear(batch.extra["camera"]))

        def null(self, conditioning):
            return conditioning

    module = build_module(tiny)
    module.adapters["text-to-image"] = Cameras()
    BFloat16().convert_module(module)
    batch = Batch("text-to-image", ("", ""), extra={"camera": torch.ones(2, 3)}, latents=torch.zeros(2, 3, 1, 16, 16))
    assert module.condition(batch, torch.zeros(2, dtype=torch.bool)).vector.dtype == torch.bfloat16
    assert batch.extra["camera"].dtype == torch.float32


def test_numbers_of_a_batch_reach_an_adapter_of_bf16_true_as_they_are(tiny):
    """bfloat16 has three digits: 23.976 frames a second would be 24. Layers cast for themselves, by name or not."""

    class Rates(ConditioningAdapter):
        def __init__(self):
            super().__init__()
            self.dims = ConditioningDims(vector=8)
            self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, batch, text, latent_shape):
            seen.append(batch.extra["fps"])
            x = self.norm(batch.extra["fps"][:, None, None].expand(-1, 3, 8))
            return Conditioning(vector=self.attention(x, key=x, value=x)[0][:, 0])

        def null(self, conditioning):
            return conditioning

    seen, module = [], build_module(tiny)
    module.adapters["text-to-image"] = Rates()
    BFloat16().convert_module(module)
    rates, latents = torch.tensor([23.976, 29.97]), torch.zeros(2, 3, 1, 16, 16)
    batch = Batch("text-to-image", ("", ""), extra={"fps": rates}, latents=latents)
    assert module.condition(batch, torch.zeros(2, dtype=torch.bool)).vector.dtype == torch.bfloat16
    assert torch.equal(seen[0], torch.tensor([23.976, 29.97]))


@pytest.mark.parametrize(("precision", "nearly"), [("bf16-true", 0.05), ("16-mixed", 0.01)])
def test_half_precision_learns_nearly_as_float32_does(precision, nearly, tmp_path):
    """Losses and gradient norms of the first steps; at the learning rate of the quickstart no update is lost yet."""

    def train(precision):
        assembly = load_assembly("quickstart", [*TINY, f"trainer.precision={precision}", "trainer.max_steps=8"])
        module, seen = build_module(assembly), []
        record = LambdaCallback(
            on_train_batch_end=lambda t, m, outputs, *_: seen.extend(
                [outputs["loss"].item(), m.gradient_squares.sum().sqrt().item()]
            )
        )
        fit(assembly, module, build_data(assembly, module), tmp_path / precision, extra=[record])
        return seen

    exact, half = train("32-true"), train(precision)
    assert half == pytest.approx(exact, rel=nearly)
    assert half != exact


def test_16_mixed_clips_gradients_of_the_true_size(tiny):
    """Clipping that sees gradients times the scale would shrink each of them 65536 times too much."""
    module = build_module(tiny)
    weight = next(p for name, p in module.trainable() if name == "backbone.head.linear.bias")
    optimizer, plugin, seen = AdamW([weight], fused=True), Float16Mixed("cpu"), []

    def closure():
        plugin.scaler.scale(weight.sum()).backward()
        return torch.zeros(())

    plugin._after_closure = lambda model, optimizer: seen.append(weight.grad.clone())
    before = weight.detach().clone()
    plugin.optimizer_step(optimizer, model=module, closure=closure)
    assert torch.equal(seen[0], torch.ones_like(weight))
    assert not torch.equal(weight, before)

    def overflow():
        plugin.scaler.scale(weight.sum() * torch.inf).backward()
        return torch.zeros(())

    optimizer.zero_grad()
    before = weight.detach().clone()
    plugin.optimizer_step(optimizer, model=module, closure=overflow)
    assert torch.equal(weight, before)
    assert plugin.scaler.get_scale() == 32768
