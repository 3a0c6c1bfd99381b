"""PT-DiT, the proxy-tokenized diffusion transformer (Wang et al., Qihoo-T2X, arXiv 2409.04005), and two relatives.

    B  batch                 C  latent channels          F, H, W  frames (views), height, width of the latents
    P  patch size            f, h, w  token grid (F, H/P, W/P)            N = f·h·w  tokens
    M  windows = proxies     D  width                    T  text tokens

Time t is in [0, 1], t = 1 is pure noise.
"""

from __future__ import annotations

from collections.abc import Collection
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2x_core.backbone.attention import CrossAttention, FusedAttention, WindowAttention
from t2x_core.backbone.banded import BandedLinear
from t2x_core.backbone.conditioning_cache import ConditioningCache, no_cache
from t2x_core.backbone.conditioning_parts import PARTS, check_parts, widths_of
from t2x_core.backbone.config import PTDiTConfig
from t2x_core.backbone.embeddings import TextProjection, TimeEmbedding, patch_embedding, position_table
from t2x_core.backbone.linear import Init, linear
from t2x_core.backbone.pretrained import Pretrained
from t2x_core.backbone.windows import Layout, Triple, make_layout, resolve_window
from t2x_core.types import Conditioning, FrameAxis


def norm(x: Tensor) -> Tensor:
    """Layer norm without affine parameters."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm, then scale and shift, each (B, 1, D)."""
    return torch.addcmul(shift, norm(x), 1 + scale)  # one pass less than x * (1 + scale) + shift


def table(rows: int, width: int, gates: tuple[int, ...] = ()) -> nn.Parameter:
    """A block's own part of the modulation (rows, D), to which that of the time is added; its gates begin at one."""
    values = torch.randn(rows, width) / width**0.5
    values[list(gates)] = 1
    return nn.Parameter(values)


def mlp(config: PTDiTConfig) -> nn.Sequential:
    hidden = int(config.mlp_ratio * config.width)
    return nn.Sequential(linear(config.width, hidden), nn.GELU(approximate="tanh"), linear(hidden, config.width))


class PTDiTBlock(nn.Module):
    """The block of the paper: global information through proxies, texture through windows, then text and MLP."""

    def __init__(self, config: PTDiTConfig, index: int) -> None:
        super().__init__()
        D, heads, qk_norm = config.width, config.heads, config.qk_norm
        self.released, self.giim, self.tcm = config.released, config.giim, config.tcm
        branch_init: Init = "xavier" if self.released else "zero"
        self.table = table(6, D)
        if self.giim:
            self.proxy_attention = WindowAttention(D, heads, qk_norm)
            self.visual_attention = CrossAttention(D, heads, qk_norm, branch_init)
            if self.released:
                self.visual_linear0 = nn.Identity() if config.folded else linear(D, D, "zero")
            else:
                self.visual_table = table(1, D, gates=(0,))
        if self.tcm:
            self.shifted_table = table(3, D, gates=(2,))
            self.window_attention = WindowAttention(D, heads, qk_norm)
            self.shifted_attention = WindowAttention(D, heads, qk_norm, branch_init)
            if self.released:
                self.shifted_linear0 = linear(D, D, "zero")
        self.text_attention = CrossAttention(D, heads, qk_norm) if config.dims.text else None
        self.mlp = mlp(config)

    def forward(
        self,
        x: Tensor,
        t6: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None,
        layout: Layout,
        cache: ConditioningCache | None = None,
    ) -> Tensor:
        """x (B, N, D), t6 (B, 6, D), text (B, T, D), text_mask (B, T) -> (B, N, D)."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (self.table + t6).chunk(6, 1)  # (B, 1, D) each

        if self.giim:  # global information interaction
            p = layout.plain.mean(x)  # (B, M, D)
            p = p + self.proxy_attention(norm(p), layout.proxies)
            rotations = layout.rotation, layout.plain.proxy_rotation
            v = self.visual_attention(norm(x), norm(p), rotations=rotations)  # (B, N, D)
            x = x + (self.visual_linear0(v) if self.released else (self.visual_table + t6[:, 2:3]) * v)

        if self.tcm:  # texture complement
            shift_s, scale_s, gate_s = (self.shifted_table + t6[:, :3]).chunk(3, 1)
            x = x + gate * self.window_attention(modulate(x, shift, scale), layout.plain)
            s = gate_s * self.shifted_attention(modulate(x, shift_s, scale_s), layout.shifted)
            x = x + (self.shifted_linear0(s) if self.released else s)

        if self.text_attention is not None and text is not None:
            x = x + self.text_attention(x, text, text_mask, cache=cache)
        return x + gate_mlp * self.mlp(modulate(x, shift_mlp, scale_mlp))


class SingleAttentionBlock(nn.Module):
    """PixArt's block (arXiv 2310.00426): one self-attention, dense or fused, then text, then MLP.

    With `fused`, the windows are shifted in every other block, so that what two blocks cut apart differs.
    """

    def __init__(self, config: PTDiTConfig, index: int) -> None:
        super().__init__()
        D, heads, qk_norm = config.width, config.heads, config.qk_norm
        attention = FusedAttention if config.attention == "fused" else WindowAttention
        self.shifted = bool(index % 2)
        self.table = table(6, D)
        self.attention = attention(D, heads, qk_norm)
        self.text_attention = CrossAttention(D, heads, qk_norm) if config.dims.text else None
        self.mlp = mlp(config)

    def forward(
        self,
        x: Tensor,
        t6: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None,
        layout: Layout,
        cache: ConditioningCache | None = None,
    ) -> Tensor:
        """x (B, N, D), t6 (B, 6, D), text (B, T, D), text_mask (B, T) -> (B, N, D)."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (self.table + t6).chunk(6, 1)  # (B, 1, D) each
        windows = layout.shifted if self.shifted else layout.plain
        x = x + gate * self.attention(modulate(x, shift, scale), windows)
        if self.text_attention is not None and text is not None:
            x = x + self.text_attention(x, text, text_mask, cache=cache)
        return x + gate_mlp * self.mlp(modulate(x, shift_mlp, scale_mlp))


class Head(nn.Module):
    """Tokens (B, N, D) to patches (B, N, P·P·C), laid out (patch row, patch column, channel)."""

    def __init__(self, config: PTDiTConfig) -> None:
        super().__init__()
        self.table = table(2, config.width)
        self.linear = linear(config.width, config.patch_size**2 * config.out_channels, "zero")

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x (B, N, D), emb (B, D) -> (B, N, P·P·C)."""
        shift, scale = (self.table + emb[:, None]).chunk(2, 1)  # (B, 1, D) each
        return self.linear(modulate(x, shift, scale))


class PTDiT(nn.Module, Pretrained):
    """Noised latents, time and conditioning to a velocity (and whatever else the out channels are trained for).

    `PTDiT.from_pretrained(folder or hub id)` needs neither a recipe nor Lightning.
    """

    def __init__(self, config: PTDiTConfig) -> None:
        super().__init__()
        D, P, dims = config.width, config.patch_size, config.dims
        self.config = config
        widths = {part: widths_of(part, (dims, *config.shared_by)) for part in PARTS}
        patches = [P * P * (config.in_channels + c) for c in (0, *widths["concat"])]
        self.patch_embedding = patch_embedding(patches, config.bottleneck, D)
        self.time_embedding = TimeEmbedding(D)
        self.time_modulation = linear(D, 6 * D, "time")  # one for all blocks: adaLN-single (PixArt-α, section 2.3)
        self.text_projection = TextProjection(widths["text"], D) if dims.text else None
        self.vector_projection = BandedLinear(widths["vector"], D) if dims.vector else None
        self.frame_projection = BandedLinear(widths["frames"], D, "zero") if dims.frames else None
        block = PTDiTBlock if config.attention == "proxy" else SingleAttentionBlock
        self.blocks = nn.ModuleList(block(config, index) for index in range(config.depth))
        self.head = Head(config)

    def forward(
        self,
        latents: Tensor,
        t: Tensor,
        conditioning: Conditioning,
        cache: ConditioningCache | None = None,
        capture: Collection[int] = (),
    ) -> Tensor | tuple[Tensor, dict[int, Tensor]]:
        """Predicts from noised latents.

        Args:
            latents: (B, C, F, H, W); H and W multiples of the patch size.
            t: (B,) in [0, 1].
            conditioning: parts that `config.dims` names, as wide, less wide or absent.
            cache: for calls with the same conditioning, one after the other: keeps what follows from it alone.
            capture: numbers of blocks (0 = the first) whose tokens are wanted.

        Returns:
            (B, out_channels, F, H, W). With `capture`, a pair: this, and block → the tokens after it, (B, N, D), row by
            row of the token grid.

        Raises:
            ValueError: patches do not divide H or W, there is no such block, or a part is wider or misshapen.
        """
        grid = self._grid(latents)  # (f, h, w)
        dtype = self.head.table.dtype  # of the residual stream; float32 under autocast
        once = cache or no_cache
        if cache is not None:
            cache.bind(conditioning, latents.shape)
        latents = latents.to(dtype)
        cond = once(Conditioning.to, conditioning, dtype)
        check_parts(cond, self.config.dims, latents)
        if cond.concat is not None:
            latents = torch.cat((latents, cond.concat), 1)  # (B, C + Cc, F, H, W)
        x = self.patch_embedding(self._patchify(latents)).to(dtype)  # (B, N, D), row by row
        x = self._positioned(x, grid, cond.frame_axis)
        if self.frame_projection is not None and cond.frames is not None:
            frames = self.frame_projection(cond.frames).expand(-1, grid[0], -1)  # (B, F, D)
            x = x + frames.repeat_interleave(grid[1] * grid[2], 1)

        emb = self.time_embedding(t, dtype)  # (B, D)
        if self.vector_projection is not None and cond.vector is not None:
            emb = emb + self.vector_projection(cond.vector)
        t6 = self.time_modulation(F.silu(emb)).unflatten(1, (6, -1))  # (B, 6, D)
        text = None  # (B, T, D)
        if self.text_projection is not None and cond.text is not None:
            text = once(self.text_projection, cond.text)

        layout = self.layout(grid, x.device, cond.frame_axis)
        hidden: dict[int, Tensor] = {}
        x = layout.to_window_order(x)
        for index, block in enumerate(self.blocks):
            x = block(x, t6, text, cond.text_mask, layout, cache)  # (B, N, D)
            if index in capture:
                hidden[index] = layout.to_grid_order(x)
        if missing := set(capture) - hidden.keys():
            raise ValueError(f"there is no block {min(missing)}: there are 0 to {len(self.blocks) - 1}")
        out = self._unpatchify(layout.to_grid_order(self.head(x, emb)), grid)  # (B, out_channels, F, H, W)
        return (out, hidden) if capture else out

    def prepare(self, latents: Tensor, frame_axis: FrameAxis) -> None:
        """Makes the tables for latents of this shape, which later calls of `forward` find in a cache."""
        grid = self._grid(latents)
        self._positioned(latents.new_zeros(1, prod(grid), self.config.width), grid, frame_axis)
        self.layout(grid, latents.device, frame_axis)

    def _positioned(self, x: Tensor, grid: Triple, frame_axis: FrameAxis) -> Tensor:
        """Tokens (B, N, D), row by row, with the position table added (`sincos`)."""
        config = self.config
        if config.position == "rope":
            return x
        scale, frame_positions = config.position_scale, frame_axis.frame_positions
        return x + position_table(grid, config.width, scale, x.device, config.released, frame_positions).to(x.dtype)

    def layout(self, grid: Triple, device: torch.device, frame_axis: FrameAxis) -> Layout:
        """How a token grid (f, h, w) is cut into windows."""
        config = self.config
        dense = config.attention == "dense"
        return make_layout(
            grid,
            grid if dense else resolve_window(config.window, grid, frame_axis.window),
            device,
            shift_single=config.released,
            circular=frame_axis.circular and not dense,
            head_channels=config.width // config.heads if config.position == "rope" else 0,
            position_scale=config.position_scale,
            frame_positions=frame_axis.frame_positions,
            flex=config.attention == "fused" and device.type == "cuda",
        )

    def _grid(self, latents: Tensor) -> Triple:
        P, (F_, H, W) = self.config.patch_size, latents.shape[2:]
        if H % P or W % P:
            raise ValueError(f"latents of {H}×{W} cannot be cut into patches of {P}×{P}: {H % P}×{W % P} left over")
        return F_, H // P, W // P

    def _patchify(self, latents: Tensor) -> Tensor:
        """(B, C, F, H, W) -> (B, N, C·P·P)."""
        P = self.config.patch_size
        x = latents.unflatten(4, (-1, P)).unflatten(3, (-1, P))  # (B, C, F, h, P, w, P)
        return x.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)

    def _unpatchify(self, x: Tensor, grid: Triple) -> Tensor:
        """(B, N, P·P·C) -> (B, C, F, H, W)."""
        P = self.config.patch_size
        x = x.unflatten(2, (P, P, -1)).unflatten(1, grid)  # (B, f, h, w, P, P, C)
        return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)
