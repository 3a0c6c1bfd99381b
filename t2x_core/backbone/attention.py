"""The attentions of PT-DiT. All are multi-head; q, k, v and out projections have a bias.

    B  batch    N  latent tokens    M  windows = proxy tokens    L  slots of a window    S  tokens of a context
    D  width    H  heads            d = D/H  channels of a head

Self-attentions have one signature, forward(x (B, N, D), windows) -> (B, N, D), so that a block can hold any of them.
With rotary position embedding, queries and keys are rotated after their norm; a proxy stands where its window has
its middle.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2x_core.backbone.conditioning_cache import ConditioningCache, no_cache
from t2x_core.backbone.embeddings import Rotation
from t2x_core.backbone.fused import window_proxy_attention
from t2x_core.backbone.fused_flex import flex_window_proxy_attention
from t2x_core.backbone.linear import Init, linear
from t2x_core.backbone.windows import Windows


class HeadNorm(nn.Module):
    """RMSNorm over the channels of a head, in the dtype of its input (autocast leaves the weight in float32)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), eps=1e-6)


def apply_rope(x: Tensor, rotation: Rotation | None) -> Tensor:
    """Rotary position embedding of queries or keys (…, d); None: as they are."""
    return x if rotation is None else rotation(x)


class SelfAttention(nn.Module, ABC):
    """Projections of a self-attention; what sees what is up to `forward`."""

    def __init__(self, width: int, heads: int, qk_norm: bool = False, out_init: Init = "xavier") -> None:
        super().__init__()
        self.heads = heads
        self.qkv = linear(width, 3 * width)
        self.out = linear(width, width, out_init)
        self.q_norm = HeadNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(width // heads) if qk_norm else nn.Identity()

    @abstractmethod
    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """(B, N, D) -> (B, N, D)."""


class WindowAttention(SelfAttention):
    """Every token sees the tokens of its own window: every token, if there is one window."""

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        parts = windows.cut(self.qkv(x)).unflatten(-1, (3, self.heads, -1))  # (B, M, L, 3, H, d)
        q, k, v = parts.permute(3, 0, 1, 4, 2, 5)  # (B, M, H, L, d) each
        rotation = None if windows.rotation is None else windows.rotation.unsqueeze(1)  # (M, 1, L, d/2)
        q, k = apply_rope(self.q_norm(q), rotation), apply_rope(self.k_norm(k), rotation)
        B, M = q.shape[:2]
        mask = None
        if windows.valid is not None:
            mask = windows.valid.repeat(B, 1)[:, None, None]  # (B·M, 1, 1, L)
        q, k, v = (part.flatten(0, 1) for part in (q, k, v))  # windows are a batch
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B·M, H, L, d)
        return self.out(windows.join(x.transpose(1, 2).flatten(2).unflatten(0, (B, M))))


class FusedAttention(SelfAttention):
    """Every token sees the tokens of its own window and one proxy of each other window, in one softmax.

    Beyond the paper. A proxy's key and value are the window means of the token keys (before QK-norm) and values, so
    it needs no projections. It stands for all tokens of its window, hence log(their number) is added to its logit.
    """

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        parts = windows.cut(self.qkv(x)).unflatten(-1, (3, self.heads, -1))  # (B, M, L, 3, H, d), zeros where padded
        B = len(parts)
        q, k, v = parts.permute(3, 0, 4, 1, 2, 5).flatten(1, 2)  # (G = B·H, M, L, d) each
        sizes = windows.sizes.to(k.dtype)[:, None]
        k_proxy, v_proxy = k.sum(2) / sizes, v.sum(2) / sizes  # (G, M, d)
        q, k = apply_rope(self.q_norm(q), windows.rotation), apply_rope(self.k_norm(k), windows.rotation)
        k_proxy = apply_rope(self.k_norm(k_proxy), windows.proxy_rotation)
        if windows.flex is not None and torch.compiler.is_compiling():
            x = flex_window_proxy_attention(q, k, v, k_proxy, v_proxy, windows.flex)
        else:
            x = window_proxy_attention(q, k, v, k_proxy, v_proxy, windows.proxy_bias, windows.valid)
        return self.out(windows.join(x.unflatten(0, (B, -1)).permute(0, 2, 3, 1, 4).flatten(3)))


class CrossAttention(nn.Module):
    """Every token sees the tokens of a context: text, or proxies."""

    def __init__(self, width: int, heads: int, qk_norm: bool = False, out_init: Init = "xavier") -> None:
        super().__init__()
        self.heads = heads
        self.q = linear(width, width)
        self.kv = linear(width, 2 * width)
        self.out = linear(width, width, out_init)
        self.q_norm = HeadNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(width // heads) if qk_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        mask: Tensor | None = None,
        rotations: tuple[Rotation | None, Rotation | None] = (None, None),
        cache: ConditioningCache | None = None,
    ) -> Tensor:
        """x (B, N, D), context (B, S, D), mask (B, S) bool, True = valid -> (B, N, D).

        `rotations` are those of x (N, d/2) and of the context (S, d/2); `cache` keeps its keys and values.
        """
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, N, d)
        k, v = (cache or no_cache)(self.keys_values, context)
        q, k = apply_rope(self.q_norm(q), rotations[0]), apply_rope(k, rotations[1])
        attn_mask = None if mask is None else mask[:, None, None]  # (B, 1, 1, S)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out(x.transpose(1, 2).flatten(2))

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, D) -> keys and values (B, H, S, d)."""
        k, v = self.kv(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.k_norm(k), v
