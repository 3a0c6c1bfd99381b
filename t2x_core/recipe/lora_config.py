"""The block `backbone.lora` of a recipe: fine-tuning by a low-rank update of the backbone's linear layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from t2x_core.errors import UserError
from t2x_core.recipe.components import Count, Positive


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Trains a low-rank update of linear layers; the weights that `backbone.weights` names stay as they are."""

    kind: Literal["lora", "lokr"] = "lora"
    """`lora`: the product of two narrow matrices; `lokr`: a Kronecker product, which is smaller still."""
    rank: Count = 16
    """Columns of the narrow matrices; more can learn more, and takes more memory."""
    alpha: Positive | None = None
    """The update is scaled by alpha / rank; `null`: the same as `rank`, so by 1."""
    targets: list[str] = field(default_factory=lambda: ["blocks.*attention.*", "blocks.*.mlp.*"])
    """Name patterns of linear layers of the backbone; by default all of the attentions and MLPs of its blocks."""
    rslora: bool = False
    """Whether the update is scaled by alpha / √rank instead, which suits high ranks (`lora` only)."""
    dora: bool = False
    """Whether the length of each row of a weight is trained by itself (`lora` only); slower."""
    train: list[str] = field(default_factory=list)
    """Name patterns of adapters and text encoders that are trained whole besides, such as "adapters.*"."""

    def __post_init__(self) -> None:
        for name in ("rslora", "dora"):
            if self.kind == "lokr" and getattr(self, name):
                raise UserError(f"{name} goes with kind: lora only", key=name, hint="leave it out, or the kind")
        if not self.targets:
            raise UserError("name at least one layer", key="targets", hint='such as "blocks.*.mlp.*"')
        for pattern in self.train:
            if not pattern.startswith(("adapters.", "text_encoders.")):
                raise UserError(
                    f'"{pattern}" is neither of an adapter nor of a text encoder',
                    key="train",
                    hint='write "adapters.*" or "text_encoders.*"; layers of the backbone are targets',
                )
