"""What the attentions of a block cost without their projections: by formula, by counting, and as the paper says."""

from __future__ import annotations

from dataclasses import replace
from math import isqrt, prod

from t2x_core.backbone.windows import resolve_window
from t2x_core.bench.backbone.counting import count
from t2x_core.bench.backbone.options import Grid, Options
from t2x_core.bench.backbone.results import AttentionCost

PAPER = {256: 0.343, 1024: 0.097, 4096: 0.047, 16384: 0.023}
"""Tokens → operations of its attention over those of full self-attention (Qihoo-T2X, arXiv 2409.04005)."""


def attention_costs(options: Options) -> list[AttentionCost]:
    """For the images of the paper, with one window for all of them, as in the paper."""
    return [_cost(options, tokens) for tokens in PAPER]


def _cost(options: Options, tokens: int) -> AttentionCost:
    grid = (1, isqrt(tokens), isqrt(tokens))
    window = resolve_window("auto", grid)
    N, L = tokens, prod(window)
    M = N // L
    dense = _of_attention("dense", options, grid)
    return AttentionCost(
        tokens=N,
        window=window,
        paper=PAPER[N],
        proxy=(M * M + N * M + 2 * N * L) / N**2,
        proxy_counted=_of_attention("proxy", options, grid) / dense,
        fused=(L + M) / N,
        fused_counted=_of_attention("fused", options, grid) / dense,
    )


def _of_attention(variant: str, options: Options, grid: Grid) -> float:
    """Operations of the attentions of two blocks.

    Operations of a block are a·D² (projections, MLP) + b·D (attentions): two widths give b. Text is left out.
    """
    narrow = replace(options, width=64, heads=1, depth=2, batch=1, text=0)
    few = count(variant, narrow, grid, backward=False).blocks
    many = count(variant, replace(narrow, width=128), grid, backward=False).blocks
    return (4 * few - many) / 2
