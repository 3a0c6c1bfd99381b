"""How the token grid is cut into windows: order, padding, shift, masks.

    f, h, w  token grid        N = f·h·w  tokens          C  any number of channels
    (pf, ph, pw)  window       L = pf·ph·pw  slots        M  windows = proxy tokens

Blocks keep their tokens in the order of the plain windows, if these divide the grid: a plain window is then a view, and
only a shifted cut moves anything. Otherwise the order is that of the grid, row by row, and padding fills the windows.

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
from typing import Any, Literal

import torch
from torch import Tensor

from t2x_core.backbone.embeddings import Rotation, rotation
from t2x_core.backbone.fused_flex import FlexMask, flex_mask

Triple = tuple[int, int, int]


class _Permute(torch.autograd.Function):
    """Rows of x (B, rows, C) to other places; the gradient is moved back by an index too, not added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Tensor, target: Tensor, empty: Tensor, none: Tensor) -> Tensor:
        ctx.save_for_backward(source, target, empty, none)
        moved = x.index_select(1, source)
        return moved.index_fill_(1, empty, 0) if len(empty) else moved

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        source, target, empty, none = ctx.saved_tensors
        return _Permute.apply(gradient, target, source, none, empty), None, None, None, None


@dataclass(frozen=True, eq=False)
class Permutation:
    """Tokens to slots, of which some may stay empty, and back."""

    source: Tensor
    """(slots,) the token of each slot; for an empty one any."""
    target: Tensor
    """(tokens,) the slot of each token."""
    empty: Tensor
    """Empty slots."""
    none: Tensor
    """Tokens that have no slot: there are none."""

    def __call__(self, x: Tensor) -> Tensor:
        """(B, tokens, C) -> (B, slots, C), zeros in empty slots."""
        return _Permute.apply(x, self.source, self.target, self.empty, self.none)

    def back(self, x: Tensor) -> Tensor:
        """(B, slots, C) -> (B, tokens, C)."""
        return _Permute.apply(x, self.target, self.source, self.none, self.empty)


@dataclass(frozen=True, eq=False)
class Windows:
    """One cut of the tokens into windows."""

    shape: tuple[int, int]
    """(M, L)."""
    move: Permutation | None
    """Tokens, as they stand in the blocks, to slots; None: they stand as the slots do."""
    valid: Tensor | None
    """(M, L) bool, False where a slot is padding; None when there is no padding."""
    sizes: Tensor
    """(M,) float32, valid tokens of each window."""
    proxy_bias: Tensor
    """(M, 1, M) float32, added to the logits of proxies: log of their sizes, -inf for the query's own window."""
    rotation: Rotation | None = None
    """(M, L, d/2), of each slot, with rotary position embedding."""
    proxy_rotation: Rotation | None = None
    """(M, d/2), of the mean position of each window."""
    flex: FlexMask | None = None
    """The same for FlexAttention, where it may be called."""

    def cut(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, M, L, C), zeros in padded slots."""
        return (x if self.move is None else self.move(x)).unflatten(1, self.shape)

    def join(self, x: Tensor) -> Tensor:
        """(B, M, L, C) -> (B, N, C), the way back from `cut`; padded slots are left out."""
        x = x.flatten(1, 2)
        return x if self.move is None else self.move.back(x)

    def mean(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, M, C), the mean of the valid tokens of each window."""
        return self.cut(x).sum(2) / self.sizes.to(x.dtype)[:, None]


@dataclass(frozen=True, eq=False)
class Layout:
    """The order of the tokens of one grid, and its two cuts; made by `make_layout` and shared by all blocks."""

    move: Permutation | None
    """Tokens row by row to their order in the blocks; None: it is the same."""
    plain: Windows
    shifted: Windows
    proxies: Windows
    """The proxies of the plain cut, as one window."""
    rotation: Rotation | None = None
    """(N, d/2), of each token, with rotary position embedding."""

    def to_window_order(self, x: Tensor) -> Tensor:
        """(B, N, C), row by row -> in the order of the blocks."""
        return x if self.move is None else self.move(x)

    def to_grid_order(self, x: Tensor) -> Tensor:
        """(B, N, C), in the order of the blocks -> row by row."""
        return x if self.move is None else self.move.back(x)


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
def make_layout(
    grid: Triple,
    window: Triple,
    device: torch.device,
    *,
    shift_single: bool = False,
    circular: bool = False,
    head_channels: int = 0,
    position_scale: float = 1.0,
    frame_positions: bool = True,
    flex: bool = False,
) -> Layout:
    """Cuts a grid (f, h, w) into windows (pf, ph, pw) no larger than the grid (`resolve_window`); cached.

    Padding is at the end of an axis. The shifted cut moves the windows by half their size along each axis that has more
    than one; with `shift_single` also along an axis with a single window, which the released network does. `circular`:
    the last frame is a neighbour of the first, and the frame axis is rolled, so that one shifted window holds both.

    With `head_channels`, the channels of a head, there are rotations for the positions of tokens and proxies, rows and
    columns divided by `position_scale`; without `frame_positions` all frames have the number 0. `flex`: with the
    flex masks.
    """
    with torch.device("cpu"):
        cuts = [_cut(grid, window, shifted, shift_single, circular) for shifted in (False, True)]
        tokens = torch.arange(prod(grid))
        divides = bool(cuts[0].valid.all())
        order = cuts[0].token.flatten() if divides else tokens  # token, row by row, at each place in the blocks
        place = order.argsort()

        def rotate(positions: Tensor) -> Rotation | None:
            """Positions (…, 3) -> (…, d/2)."""
            if not head_channels:
                return None
            scaled = (
                positions / torch.tensor([1, position_scale, position_scale]) * torch.tensor([frame_positions, 1, 1])
            )
            return rotation(scaled, head_channels).to(device)

        def windows(cut: _Cut) -> Windows:
            sizes = cut.valid.sum(1).float()
            own = torch.eye(len(sizes), dtype=torch.bool)
            at = cut.position.double()
            middle = (at * cut.valid[..., None]).sum(1) / sizes[:, None]
            M, L = cut.valid.shape
            valid = None if cut.valid.all() else cut.valid.to(device)
            return Windows(
                shape=(M, L),
                move=_move(place[cut.token.flatten()], cut.valid.flatten(), device),
                valid=valid,
                sizes=sizes.to(device),
                proxy_bias=sizes.log().expand(len(sizes), -1).masked_fill(own, -torch.inf).unsqueeze(1).to(device),
                rotation=rotate(at),
                proxy_rotation=rotate(middle),
                flex=flex_mask(M, L, valid, sizes.to(device)) if flex else None,
            )

        plain, shifted = windows(cuts[0]), windows(cuts[1])
        M, turn = plain.shape[0], plain.proxy_rotation
        proxies = Windows(
            shape=(1, M),
            move=None,
            valid=None,
            sizes=torch.tensor([float(M)]).to(device),
            proxy_bias=torch.full((1, 1, 1), -torch.inf).to(device),
            rotation=None if turn is None else turn.unsqueeze(0),
        )
        where = torch.stack(torch.unravel_index(order, grid), -1).double()  # (N, 3)
        whole = torch.ones(len(order), dtype=torch.bool)
        return Layout(_move(order, whole, device), plain, shifted, proxies, rotate(where))


@dataclass(frozen=True)
class _Cut:
    """The slots of the windows of one cut."""

    token: Tensor
    """(M, L) number of the token, row by row; 0 where there is none."""
    valid: Tensor
    """(M, L) bool, whether there is one."""
    position: Tensor
    """(M, L, 3) frame, row and column; a circular axis goes on counting behind its end."""


def _cut(grid: Triple, window: Triple, shifted: bool, shift_single: bool, circular: bool) -> _Cut:
    positions, insides = [], []
    for axis, (n, p) in enumerate(zip(grid, window, strict=True)):
        half = p // 2 if shifted and (n > p or shift_single) else 0
        rolled = half if circular and axis == 0 else 0
        front = p - half if half and not rolled else 0
        count = ceil((front + n) / p)
        slot = torch.arange(count * p).reshape(count, p) - front
        insides.append((slot >= 0) & (slot < n))
        positions.append(slot + rolled)

    def spread(axes: list[Tensor]) -> list[Tensor]:
        """Each (count, p) -> (M, L)."""
        M, L = prod(len(part) for part in axes), prod(part.shape[1] for part in axes)
        every = []
        for axis, part in enumerate(axes):
            shape = [1] * 6
            shape[axis], shape[axis + 3] = part.shape
            full = [len(other) for other in axes] + [other.shape[1] for other in axes]
            every.append(part.view(shape).expand(full).reshape(M, L))
        return every

    frame, row, column = spread(positions)
    f, h, w = spread(insides)
    valid = f & h & w
    token = (frame % grid[0] * grid[1] + row) * grid[2] + column
    return _Cut(token * valid, valid, torch.stack((frame, row, column), -1))


def _move(source: Tensor, valid: Tensor, device: torch.device) -> Permutation | None:
    """The move of tokens to slots, of which those that are not `valid` stay empty; None if it moves nothing."""
    if valid.all() and torch.equal(source, torch.arange(len(source))):
        return None
    slots = valid.nonzero().flatten()
    target = slots[source[slots].argsort()]
    parts = source, target, (~valid).nonzero().flatten(), slots[:0]
    return Permutation(*(part.to(device) for part in parts))
