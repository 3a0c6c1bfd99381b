"""Fused attention by FlexAttention (Dong et al. 2024, arXiv 2412.05496), for compiled blocks on a GPU.

The proxies stand once behind all tokens, and one kernel sees to it that each token skips the blocks of keys that are
not its own window or proxies. Letters as in `fused.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # it takes a good part of a second to import
    from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128
"""Tokens in a block of queries or keys, all of which are skipped or none."""


@dataclass(frozen=True, eq=False)
class FlexMask:
    """Which keys each slot sees, and what is added to their logits: what FlexAttention wants to know of a cut."""

    blocks: BlockMask
    score: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def flex_mask(M: int, L: int, valid: Tensor | None, sizes: Tensor) -> FlexMask:
    """For M windows of L slots: `valid` (M, L) as in `Windows`, `sizes` (M,). Nothing of M·L × M·L is ever made."""
    from torch.nn.attention.flex_attention import BlockMask

    device, slots = sizes.device, M * L
    zero = torch.zeros((), device=device)
    padded = torch.zeros(slots + M, dtype=torch.bool, device=device)
    if valid is not None:
        padded[:slots] = ~valid.flatten()
    count = torch.cat((torch.zeros(slots, device=device), sizes.log()))

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = (key < slots) & (key // L == query // L) & ~padded[key]
        other = (key >= slots) & (key - slots != query // L)
        return own | other

    def score(logit: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return logit + torch.where(key < slots, zero, count[key])

    rows = []
    proxies = range(slots // BLOCK, (slots + M - 1) // BLOCK + 1)
    for first in range(0, slots, BLOCK):
        low, high = first // L, (min(first + BLOCK, slots) - 1) // L  # windows that the block of queries meets
        rows.append(sorted({*range(low * L // BLOCK, ((high + 1) * L - 1) // BLOCK + 1), *proxies}))
    columns = max(proxies) + 1
    indices = torch.tensor([row + [0] * (columns - len(row)) for row in rows], dtype=torch.int32)
    numbers = torch.tensor([len(row) for row in rows], dtype=torch.int32)
    blocks = BlockMask.from_kv_blocks(
        numbers[None, None].to(device),
        indices[None, None].to(device),
        BLOCK_SIZE=BLOCK,
        mask_mod=seen,
        seq_lengths=(slots, slots + M),
    )
    return FlexMask(blocks, score)


def flex_window_proxy_attention(
    q: Tensor, k: Tensor, v: Tensor, k_proxy: Tensor, v_proxy: Tensor, mask: FlexMask
) -> Tensor:
    """What `window_proxy_attention` computes, with the bias and the valid slots in `mask`."""
    from torch.nn.attention.flex_attention import flex_attention

    keys, values = (torch.cat((x.flatten(1, 2), p), 1)[:, None] for x, p in ((k, k_proxy), (v, v_proxy)))
    out = flex_attention(q.flatten(1, 2)[:, None], keys, values, score_mod=mask.score, block_mask=mask.blocks)
    return out[:, 0].unflatten(1, q.shape[1:3])
