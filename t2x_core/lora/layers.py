"""What a LoRA does to one weight, and all that one holds. Tensors are named as in the library peft."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["lora", "lokr"]

A, B, MAGNITUDE = "lora_A", "lora_B", "lora_magnitude_vector"
TENSORS = (A, B, MAGNITUDE, "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
"""Names of the tensors of an update, in the library peft."""


@dataclass(frozen=True)
class LayerUpdate:
    """The update of one linear layer, whose weight is W (out, in).

    LoRA (Hu et al. 2021, arXiv 2106.09685, section 4.1): ΔW = scale · B A. With a magnitude m, DoRA (Liu et al. 2024,
    arXiv 2402.09353, equation 5): row i of W + ΔW gets the length m[i]. LoKr (Yeh et al. 2023, arXiv 2309.14859,
    section 3): ΔW = scale · w1 ⊗ w2, where each factor may be a product `_a` `_b`.
    """

    tensors: Mapping[str, Tensor]
    """"lora_A" (r, in), "lora_B" (out, r), "lora_magnitude_vector" (out,); or "lokr_w1" …, "lokr_w2" …"""
    scale: float

    @property
    def is_whole(self) -> bool:
        """Whether all tensors of its kind are there."""
        names = set(self.tensors) - {MAGNITUDE}
        return names == {A, B} or (
            {*self._factor_names(1)} | {*self._factor_names(2)} == names and MAGNITUDE not in self.tensors
        )

    @property
    def fits(self) -> bool:
        """Whether its tensors, which are all there, can be multiplied, and are of a rank above 0."""
        products = (
            [(A, B)] if A in self.tensors else [names[::-1] for i in (1, 2) if len(names := self._factor_names(i)) > 1]
        )
        magnitude = self.tensors.get(MAGNITUDE)
        return all(self.tensors[a].shape[0] == self.tensors[b].shape[1] > 0 for a, b in products) and (
            magnitude is None or len(magnitude) == self.shape[0]
        )

    @property
    def rank(self) -> int | None:
        """Columns of the narrow matrices; None: a Kronecker product of two whole factors."""
        for name, axis in ((A, 0), ("lokr_w1_b", 0), ("lokr_w2_b", 0)):
            if name in self.tensors:
                return self.tensors[name].shape[axis]
        return None

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight that it updates."""
        if A in self.tensors:
            return self.tensors[B].shape[0], self.tensors[A].shape[1]
        (a, b), (c, d) = (self._factor_shape(i) for i in (1, 2))
        return a * c, b * d

    def delta(self) -> Tensor:
        """ΔW (out, in), without a magnitude; float32 at least."""
        if A in self.tensors:
            return self.scale * (_wide(self.tensors[B]) @ _wide(self.tensors[A]))
        return self.scale * torch.kron(self._factor(1).contiguous(), self._factor(2).contiguous())

    def updated(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        """`weight` (out, in), moved by `strength` times the update; in the dtype of `weight`."""
        old = _wide(weight)
        new = old + self.delta().to(old)
        if (magnitude := self.tensors.get(MAGNITUDE)) is not None:
            new = new * (_wide(magnitude).to(old) / torch.linalg.vector_norm(new, dim=1)).unsqueeze(1)
        return (new if strength == 1 else old + strength * (new - old)).to(weight.dtype)

    def _factor_names(self, i: int) -> tuple[str, ...]:
        whole = f"lokr_w{i}"
        return (whole,) if whole in self.tensors else (f"{whole}_a", f"{whole}_b")

    def _factor_shape(self, i: int) -> tuple[int, int]:
        parts = [self.tensors[name] for name in self._factor_names(i)]
        return parts[0].shape[0], parts[-1].shape[1]

    def _factor(self, i: int) -> Tensor:
        parts = [_wide(self.tensors[name]) for name in self._factor_names(i)]
        return parts[0] if len(parts) == 1 else parts[0] @ parts[1]


@dataclass(frozen=True)
class Lora:
    """Updates of a backbone, and what they belong to."""

    layers: Mapping[str, LayerUpdate]
    """Layer of the backbone → its update: "blocks.0.mlp.2"."""
    kind: Kind = "lora"
    rank: int = 0
    alpha: float = 0.0
    rslora: bool = False
    dora: bool = False
    whole: Mapping[str, Tensor] = field(default_factory=dict)
    """Parameters of adapters and text encoders that were trained whole: "adapters.text-to-image.no_caption"."""
    base: str = ""
    """`tensor_hash` of the backbone that it was trained on; "": not known."""
    origin: str = ""
    """Where that backbone came from."""

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
        updates = (t.nbytes for update in self.layers.values() for t in update.tensors.values())
        return sum(updates) + sum(t.nbytes for t in self.whole.values())


def scale_of(alpha: float, rank: int, rslora: bool) -> float:
    """By which an update is multiplied: alpha / r, or alpha / √r (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732)."""
    return alpha / (rank**0.5 if rslora else rank)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
