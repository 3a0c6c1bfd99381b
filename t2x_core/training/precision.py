"""Arithmetic of the network: what `trainer.precision` means on this machine, and Lightning's part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from torch import Tensor, nn

from t2x_core.module import T2XModule
from t2x_core.outline import cast_outline, outline_mode
from t2x_core.recipe import TrainerConfig


def resolve_precision(precision: str, accelerator: str) -> str:
    """`precision`, with "auto" → "bf16-mixed" where the hardware multiplies bf16 matrices itself, else "32-true".

    A CPU without such units does it about 100 times slower than float32, so it has to be asked.
    """
    if precision != "auto":
        return precision
    if has_gpu(accelerator):
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if units else "32-true"


def has_gpu(accelerator: str) -> bool:
    """Whether a run with this `trainer.accelerator` takes a GPU."""
    return accelerator != "cpu" and torch.cuda.is_available()


def device_count(trainer: TrainerConfig) -> int:
    """Devices per node."""
    if trainer.devices != "auto":
        return trainer.devices
    return torch.cuda.device_count() if has_gpu(trainer.accelerator) else 1


def precision_plugin(precision: str, accelerator: str) -> Precision:
    """Lightning's plugin for `trainer.precision`."""
    resolved = resolve_precision(precision, accelerator)
    device = "cuda" if has_gpu(accelerator) else "cpu"
    if resolved == "bf16-true":
        return BFloat16()
    if resolved == "16-mixed":
        return Float16Mixed(device)
    return MixedPrecision("bf16-mixed", device) if resolved == "bf16-mixed" else Precision()


def trained_parts(module: T2XModule) -> Iterator[nn.Module]:
    """The backbone, adapters, and the text encoders that train: what changes its precision as a whole."""
    yield module.backbone
    yield from module.adapters.values()
    for encoder in module.text_encoders.values():
        if any(p.requires_grad for p in encoder.parameters()):
            yield encoder


class BFloat16(Precision):
    """`bf16-true`: the trained parts are bfloat16, without float32 copies of the weights.

    Pixels, latents, times, noise and losses stay float32, codecs and frozen encoders as they are. The backbone casts
    what comes into it, and so does each layer of an adapter: an adapter computes angles, rays and rates from the
    numbers of the batch as they are, as bfloat16 has three digits. (Lightning's `HalfPrecision` would cast the whole
    batch, which as a frozen dataclass it cannot, and the times with it.)
    """

    precision: Literal["bf16-true"] = "bf16-true"

    def convert_module(self, module: nn.Module) -> nn.Module:
        assert isinstance(module, T2XModule)
        for part in trained_parts(module):
            if outline_mode(part) is None:
                part.to(torch.bfloat16)
            else:
                cast_outline(part, torch.bfloat16)
        for layer in module.adapters.modules():
            if any(p.is_floating_point() for p in layer.parameters(recurse=False)):
                layer.register_forward_pre_hook(_cast_inputs, with_kwargs=True)
        return module


def _cast_inputs(
    layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Tensors that a layer is called with, in bfloat16; a batch as it is."""

    def cast(value: Any) -> Any:
        return value.bfloat16() if isinstance(value, Tensor) and value.is_floating_point() else value

    return tuple(map(cast, arguments)), {name: cast(value) for name, value in named.items()}


class Float16Mixed(MixedPrecision):
    """`16-mixed`: Lightning's, but the gradients are unscaled before they are measured and clipped.

    Lightning leaves that to an optimizer that can do it in its step, as the fused AdamW, which is too late.
    """

    def __init__(self, device: str) -> None:
        super().__init__("16-mixed", device)

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Any, model: Any, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        assert self.scaler is not None
        closure()
        self.scaler.unscale_(optimizer)
        self._after_closure(model, optimizer)
        done = self.scaler.step(optimizer, **kwargs)  # which leaves out a step whose gradients are not finite
        self.scaler.update()
        return done
