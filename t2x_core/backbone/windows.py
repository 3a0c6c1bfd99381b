"""How the token grid is cut into windows: padding, shift, masks.

    f, h, w  token grid        N = f·h·w  tokens          H  heads, d  channels of a head
    (pf, ph, pw)  window       L = pf·ph·pw  slots        M  windows = proxy tokens

A shifted cut moves each window by half its size. It is made by padding *in front* of an axis, not by rolling the grid:
a window then never joins the end of an axis to its beginning, so each window has one proxy, the mean of tokens that
are neighbours, and the only mask is the one of padded slots. For window attention this equals rolling the grid and
masking what were not neighbours (Swin, arXiv 2103.14030; Qihoo-T2X, arXiv 2409.04005), because there, too, only the
tokens of one piece see each other. Every window holds at least one valid token, so no softmax is over nothing.
Frames that stand in a circle (views around an object) are the exception: their axis is rolled, and nothing is masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Triple = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Windows:
    """One cut of one token grid; made by `cut_windows` and shared by all blocks."""

    grid: Triple
    """(f, h, w), in tokens."""
    window: Triple
    """(pf, ph, pw), in tokens; no larger than the grid."""
    before: Triple
    """Padding in front of each axis, in tokens."""
    counts: Triple
    """Windows along each axis; M is their product."""
    valid: Tensor | None
    """(M, L) bool, False where a slot is padding; None when there is no padding."""
    sizes: Tensor
    """(M,) float32, valid tokens of each window."""
    proxy_bias: Tensor
    """(M, 1, M) float32, added to the logits of proxies: log of their sizes, -inf for the query's own window."""
    rolled: int = 0
    """Frames by which a circular frame axis is rolled before it is cut."""

    def _pad(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, nf, pf, nh, ph, nw, pw, C), zeros in padded slots."""
        x = x.unflatten(1, self.grid)
        if self.rolled:
            x = x.roll(-self.rolled, 1)
        if self.valid is not None:
            padding = [0, 0]
            for n, p, before, count in zip(self.grid, self.window, self.before, self.counts, strict=True):
                padding[2:2] = [before, count * p - before - n]  # F.pad counts from the last axis
            x = F.pad(x, padding)
        (nf, nh, nw), (pf, ph, pw) = self.counts, self.window
        return x.reshape(x.shape[0], nf, pf, nh, ph, nw, pw, x.shape[-1])

    def cut(self, x: Tensor, parts: int, heads: int) -> Tensor:
        """(B, N, parts·H·d) -> (parts, B, H, M, L, d) with zeros in padded slots, in one copy."""
        x = self._pad(x).unflatten(-1, (parts, heads, -1))  # B nf pf nh ph nw pw parts H d
        return x.permute(7, 0, 8, 1, 3, 5, 2, 4, 6, 9).reshape(
            parts, x.shape[0], heads, prod(self.counts), prod(self.window), x.shape[-1]
        )

    def join(self, x: Tensor) -> Tensor:
        """(B, H, M, L, d) -> (B, N, H·d), the way back from `cut`; padded slots are left out."""
        x = x.unflatten(3, self.window).unflatten(2, self.counts)  # B H nf nh nw pf ph pw d
        x = x.permute(0, 2, 5, 3, 6, 4, 7, 1, 8).flatten(7).flatten(5, 6).flatten(3, 4).flatten(1, 2)
        if self.valid is not None:
            for axis, (n, before) in enumerate(zip(self.grid, self.before, strict=True), start=1):
                x = x.narrow(axis, before, n)
        if self.rolled:
            x = x.roll(self.rolled, 1)
        return x.flatten(1, 3)

    def mean(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, M, C), the mean of the valid tokens of each window."""
        return self._pad(x).sum((2, 4, 6)).flatten(1, 3) / self.sizes.to(x.dtype)[:, None]


def resolve_window(window: Triple | Literal["auto"], grid: Triple, frames: int | None = None) -> Triple:
    """The window for a grid (f, h, w), never larger than the grid; `frames` stands in for its pf.

    `"auto"` keeps the number of windows about the same at each resolution, as the paper's table does: along h and w
    max(2, ⌈grid / 8⌉) tokens, along f four.
    """
    if window == "auto":
        window = (4, max(2, ceil(grid[1] / 8)), max(2, ceil(grid[2] / 8)))
    pf, ph, pw = (min(p, n) for p, n in zip((frames or window[0], *window[1:]), grid, strict=True))
    return pf, ph, pw


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # the cached tensors are also used in training
def cut_windows(
    grid: Triple,
    window: Triple,
    device: torch.device,
    shifted: bool = False,
    shift_single: bool = False,
    circular: bool = False,
) -> Windows:
    """Cuts a grid (f, h, w) into windows (pf, ph, pw) no larger than the grid (`resolve_window`); cached.

    Padding is at the end of an axis. `shifted` moves the windows by half their size along each axis that has more
    than one; `shift_single` also along an axis with a single window, which the released network does. `circular`: the
    last frame is a neighbour of the first, and the frame axis is rolled, so that one shifted window holds both.
    """
    before, counts, inside = [], [], []
    rolled = 0
    for axis, (n, p) in enumerate(zip(grid, window, strict=True)):
        half = p // 2 if shifted and (n > p or shift_single) else 0
        if circular and axis == 0:
            rolled, half = half, 0
        front = p - half if half else 0
        count = ceil((front + n) / p)
        token = torch.arange(count * p, device="cpu").reshape(count, p) - front
        before.append(front)
        counts.append(count)
        inside.append((token >= 0) & (token < n))  # (count, p)
    f, h, w = inside
    valid = f[:, None, None, :, None, None] & h[:, None, None, :, None] & w[:, None, None, :]  # nf nh nw pf ph pw
    valid = valid.reshape(prod(counts), prod(window))
    sizes = valid.sum(1).float()
    own = torch.eye(len(sizes), dtype=torch.bool, device="cpu")
    return Windows(
        grid=grid,
        window=window,
        before=(before[0], before[1], before[2]),
        counts=(counts[0], counts[1], counts[2]),
        valid=None if valid.all() else valid.to(device),
        sizes=sizes.to(device),
        proxy_bias=sizes.log().expand(len(sizes), -1).masked_fill(own, -torch.inf).unsqueeze(1).to(device),
        rolled=rolled,
    )
