"""How the blocks of a PT-DiT compute in training: compiled, or computed twice instead of kept in memory.

Both change `block.forward` on the instance, inside the hooks of the module, so that what shards or wraps the block
(FSDP2) works as before and no name of a parameter changes. Without gradients, as in validation and sampling, a block
computes as it is written: their batches have shapes of their own, which need not be compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from t2x_core.backbone.pt_dit import PTDiT

Forward = Callable[..., Tensor]


def checkpoint_blocks(model: PTDiT) -> None:
    """Keeps only the input of each block for the backward pass, which computes the block once more (Chen et al. 2016,
    arXiv 1604.06174). The gradients are the same to the last bit."""
    for block in model.blocks:
        # A block draws no random numbers, so there is no state of a generator to keep.
        again = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        _in_training(block, again)


def compile_blocks(model: PTDiT, shapes: int) -> None:
    """Compiles the blocks, all alike at once, for each shape that comes; before `checkpoint_blocks`.

    Args:
        shapes: how many shapes of micro-batches there are.
    """
    # Past its limit of 8 shapes torch would give up. Every other block of one kind shifts its windows.
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 2 * shapes)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 2 * shapes)
    compiled = torch.compile(type(model.blocks[0]).forward, dynamic=False, fullgraph=True)
    for block in model.blocks:
        _in_training(block, partial(compiled, block))


def _in_training(block: torch.nn.Module, training: Forward) -> None:
    plain = type(block).forward

    def forward(*arguments: object) -> Tensor:
        return training(*arguments) if torch.is_grad_enabled() else plain(block, *arguments)

    block.forward = forward
