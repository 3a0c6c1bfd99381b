"""The attentions of PT-DiT. All are multi-head; q, k, v and out projections have a bias.

    B  batch    N  latent tokens    M  windows = proxy tokens    L  slots of a window    S  tokens of a context
    D  width    H  heads            d = D/H  channels of a head

Self-attentions have one signature, forward(x (B, N, D), windows) -> (B, N, D), so that a block can hold any of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2x_core.backbone.linear import Init, linear
from t2x_core.backbone.windows import Windows


class HeadNorm(nn.Module):
    """RMSNorm over the channels of a head, in the dtype of its input (autocast leaves the weight in float32)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), eps=1e-6)


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


class DenseAttention(SelfAttention):
    """Every token sees every token."""

    def forward(self, x: Tensor, windows: Windows | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, N, d) each
        x = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.out(x.transpose(1, 2).flatten(2))


class WindowAttention(SelfAttention):
    """Every token sees the tokens of its own window."""

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        q, k, v = windows.cut(self.qkv(x), 3, self.heads)  # (B, H, M, L, d) each
        M, L = q.shape[2:4]
        mask = windows.valid
        if mask is not None:
            mask = mask[:, None].expand(self.heads, M, 1, L).reshape(1, self.heads * M, 1, L)
        q, k, v = (part.flatten(1, 2) for part in (self.q_norm(q), self.k_norm(k), v))  # (B, H·M, L, d)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(windows.join(x.unflatten(1, (self.heads, M))))


class FusedAttention(SelfAttention):
    """Every token sees the tokens of its own window and one proxy of each other window, in one softmax.

    Beyond the paper. A proxy's key and value are the window means of the token keys (before QK-norm) and values, so
    it needs no projections. It stands for all tokens of its window, hence log(their number) is added to its logit.
    """

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        q, k, v = windows.cut(self.qkv(x), 3, self.heads)  # (B, H, M, L, d) each, zeros in padded slots
        M, L, d = q.shape[2:]
        sizes = windows.sizes.to(k.dtype)[:, None]
        k_proxy, v_proxy = k.sum(3) / sizes, v.sum(3) / sizes  # (B, H, M, d)
        q, k, k_proxy = self.q_norm(q) * d**-0.5, self.k_norm(k), self.k_norm(k_proxy)

        own = (q @ k.transpose(-1, -2)).float()  # (B, H, M, L, L)
        far = (q.flatten(2, 3) @ k_proxy.transpose(-1, -2)).unflatten(2, (M, L))  # (B, H, M, L, M)
        far = far + windows.proxy_bias
        if windows.valid is not None:
            own = own.masked_fill(~windows.valid[:, None], -torch.inf)

        # One softmax over (own, far) without joining them: a shared maximum and a shared sum, in float32.
        peak = torch.maximum(own.amax(-1, keepdim=True), far.amax(-1, keepdim=True)).detach()
        own, far = (own - peak).exp(), (far - peak).exp()
        total = own.sum(-1, keepdim=True) + far.sum(-1, keepdim=True)  # (B, H, M, L, 1)
        own, far = own.to(v.dtype), far.to(v.dtype)
        x = own @ v + (far.flatten(2, 3) @ v_proxy).unflatten(2, (M, L))  # (B, H, M, L, d)
        return self.out(windows.join(x / total.to(x.dtype)))


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

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, N, D), context (B, S, D), mask (B, S) bool, True = valid -> (B, N, D)."""
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, N, d)
        k, v = self.kv(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, S, d) each
        attn_mask = None if mask is None else mask[:, None, None]  # (B, 1, 1, S)
        x = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, attn_mask=attn_mask)
        return self.out(x.transpose(1, 2).flatten(2))
