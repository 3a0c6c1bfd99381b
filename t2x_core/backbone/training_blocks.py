"""How the blocks of a PT-DiT compute in training: compiled, or computed twice instead of kept in memory.

Both change `block.forward` on the instance, inside the hooks of the module, so that what shards or wraps the block
(FSDP2) works as before and no name of a parameter changes. Without gradients, as in validation and sampling, a block
computes as it is written: their batches have shapes of their own, which need not be compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from t2x_core.backbone.pt_dit import PTDiT

Checkpointing = bool | Literal["selective"]
"""Whether a block is computed once more in the backward pass: not, wholly, or but for what is dear."""

_aten: Any = torch.ops.aten
DEAR = (
    _aten.mm.default,
    _aten.addmm.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
)
"""Results that `selective` keeps: linear layers and attention. Norms, modulation, GELU and the products of fused
attention, which are small, are computed again."""


def set_blocks(model: PTDiT, *, checkpointing: Checkpointing = False, shapes: int = 0) -> None:
    """Sets how the blocks compute where there are gradients.

    Args:
        checkpointing: True keeps only the input of each block for the backward pass, which computes the block once more
            (Chen et al. 2016, arXiv 1604.06174); `"selective"` also what is `DEAR`. The gradients are the same to the
            last bit.
        shapes: compiles the blocks, all alike at once, for each shape of micro-batches, of which there are so many;
            0 = not.
    """
    plain = type(model.blocks[0]).forward
    training: Callable[..., Tensor] = plain
    if checkpointing:
        # A block draws no random numbers, so there is no state of a generator to keep.
        options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        if checkpointing == "selective":
            options["context_fn"] = partial(create_selective_checkpoint_contexts, list(DEAR))

        def training(*arguments: object) -> Tensor:
            return checkpoint(plain, *arguments, **options)

    if shapes:
        # Past its limit of 8 shapes torch would give up. Every other block of one kind shifts its windows.
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, 2 * shapes)
        config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 2 * shapes)
        training = torch.compile(training, dynamic=False, fullgraph=True)
    for block in model.blocks:
        _in_training(block, partial(training, block))


def _in_training(block: torch.nn.Module, training: Callable[..., Tensor]) -> None:
    plain = type(block).forward

    def forward(*arguments: object) -> Tensor:
        return training(*arguments) if torch.is_grad_enabled() else plain(block, *arguments)

    block.forward = forward
