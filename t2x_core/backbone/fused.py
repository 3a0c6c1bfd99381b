"""The kernel of fused attention: own window and proxies in one softmax, without joining their keys.

    G  heads of all samples    M  windows = proxies    L  slots of a window    d  channels of a head

Joined keys would hold the proxies once for each window. Instead the logits of two products stand side by side. They
are computed slab by slab, some heads or windows at once, and once more in the backward pass (as FlashAttention does,
arXiv 2205.14135), so memory grows with the tokens and not with tokens times proxies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

SLAB = {"cpu": 2**20}
"""Logits computed at once: about what the caches of a CPU hold."""
LARGE_SLAB = 2**27
"""The same on other devices: half a GiB."""


def window_proxy_attention(
    q: Tensor, k: Tensor, v: Tensor, k_proxy: Tensor, v_proxy: Tensor, bias: Tensor, valid: Tensor | None
) -> Tensor:
    """Attention of each token to the tokens of its own window and to proxies, in one softmax.

    Args:
        q, k, v: (G, M, L, d).
        k_proxy, v_proxy: (G, M, d).
        bias: (M, 1, M) float32, added to the logits of the proxies.
        valid: (M, L) bool, False for slots that nobody sees; None: all are seen.

    Returns:
        (G, M, L, d), in the dtype of q. Logits, softmax and sums are float32 at least, whatever autocast says:
        logits of 100 in bfloat16 would be off by a quarter, and their softmax by as much.
    """
    return _OwnAndProxies.apply(q, k, v, k_proxy, v_proxy, bias, valid)


class _OwnAndProxies(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, k_proxy: Tensor, v_proxy: Tensor, bias: Tensor, valid: Tensor | None
    ) -> Tensor:
        L = q.shape[2]
        out = torch.empty_like(q)
        with _without_autocast(q):
            for s in _slabs(q):
                own, far = _attention_weights(s, q, k, k_proxy, bias, valid).tensor_split((L,), -1)
                out[s] = _times(own, v[s]).add_(_per_head(far, v_proxy[s[0]]))
        ctx.save_for_backward(q, k, v, k_proxy, v_proxy, bias, valid)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        q, k, v, k_proxy, v_proxy, bias, valid = ctx.saved_tensors
        L, scale = q.shape[2], q.shape[-1] ** -0.5
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        dk_proxy, dv_proxy = (torch.zeros_like(x, dtype=_wide(x)) for x in (k_proxy, v_proxy))
        with _without_autocast(q):
            for s in _slabs(q):
                g, heads = gradient[s], s[0]
                taken = _attention_weights(s, q, k, k_proxy, bias, valid)
                d_own = _times(g, v[s].transpose(-1, -2))
                d_taken = torch.cat((d_own, _per_head(g, v_proxy[heads].transpose(-1, -2))), -1)
                d_logits = taken * (d_taken - (taken * d_taken).sum(-1, keepdim=True))
                own, far = taken.tensor_split((L,), -1)
                d_own, d_far = d_logits.tensor_split((L,), -1)

                dv[s] = _times(own.transpose(-1, -2), g)
                dv_proxy[heads] += _times(far.flatten(1, 2).transpose(-1, -2), g.flatten(1, 2))
                dq[s] = _times(d_own, k[s]).add_(_per_head(d_far, k_proxy[heads])).mul_(scale)
                dk[s] = _times(d_own.transpose(-1, -2), q[s]).mul_(scale)
                dk_proxy[heads] += _times(d_far.flatten(1, 2).transpose(-1, -2), q[s].flatten(1, 2)).mul_(scale)
        return dq, dk, dv, dk_proxy.to(k_proxy.dtype), dv_proxy.to(v_proxy.dtype), None, None


def _slabs(q: Tensor) -> Iterator[tuple[slice, slice]]:
    """Which heads and windows are computed at once: several heads, or some windows of one."""
    G, M, L, _ = q.shape
    budget = SLAB.get(q.device.type, LARGE_SLAB)
    heads = max(1, min(G, budget // (M * L * (L + M))))
    windows = M if heads > 1 else max(1, min(M, budget // (L * (L + M))))
    for head in range(0, G, heads):
        for window in range(0, M, windows):
            yield slice(head, head + heads), slice(window, window + windows)


def _attention_weights(
    s: tuple[slice, slice], q: Tensor, k: Tensor, k_proxy: Tensor, bias: Tensor, valid: Tensor | None
) -> Tensor:
    """What the tokens of a slab take of the values of their window and of the proxies: (g, m, L, L + M), float32."""
    heads, windows = s
    own = _times(q[s], k[s].transpose(-1, -2)).mul_(q.shape[-1] ** -0.5)
    if valid is not None:
        own.masked_fill_(~valid[windows, None], -torch.inf)
    far = _per_head(q[s], k_proxy[heads].transpose(-1, -2)).mul_(q.shape[-1] ** -0.5).add_(bias[windows])
    return torch.cat((own, far), -1).softmax(-1)


def _per_head(x: Tensor, matrix: Tensor) -> Tensor:
    """x (G, m, L, a) times the matrix (G, a, b) of its head -> (G, m, L, b)."""
    return _times(x.flatten(1, 2), matrix).unflatten(1, x.shape[1:3])


def _times(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, summed and returned in float32 at least. On a GPU the factors are those of its units for 16 bits."""
    if b.is_cuda and b.dtype in (torch.bfloat16, torch.float16):
        batch = a.shape[:-2]
        flat = torch.bmm(a.to(b.dtype).flatten(0, -3), b.flatten(0, -3), out_dtype=torch.float32)
        return flat.unflatten(0, batch)
    return a.to(_wide(a)) @ b.to(_wide(b))


def _without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    kind = x.device.type  # tensors of "meta" count operations; they know no autocast
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
