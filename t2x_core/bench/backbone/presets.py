"""Parameters and operations of the named sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from t2x_core.backbone import PRESETS
from t2x_core.bench.backbone.counting import count
from t2x_core.bench.backbone.networks import build
from t2x_core.bench.backbone.options import Grid, Options

ATTENTIONS = ("proxy", "fused", "dense")


@dataclass(frozen=True)
class Size:
    """A preset with one attention."""

    preset: str
    attention: str
    parameters: int
    flops: tuple[int, ...]
    """Operations of a forward pass of one sample, on each grid."""


def sizes(grids: tuple[Grid, ...], text: int) -> list[Size]:
    """S to H with each attention; nothing is computed."""
    found = []
    for name, preset in PRESETS.items():
        if preset.get("released"):
            continue
        depth = preset["depth"]
        options = Options(
            preset["width"], depth=2, heads=preset["heads"], text=text
        )  # and each pair of blocks is alike
        for attention in ATTENTIONS:
            two = build(attention, options, grids[0], torch.device("meta"))
            block = sum(p.numel() for p in two.blocks[0].parameters())
            counts = [count(attention, options, grid, backward=False) for grid in grids]
            flops = tuple(pair.network + pair.blocks * (depth - 2) // 2 for pair in counts)
            found.append(Size(name, attention, two.parameters + (depth - 2) * block, flops))
    return found


def markdown(found: list[Size], grids: tuple[Grid, ...]) -> str:
    """A table: millions of parameters, and 10⁹ operations (2 for a multiplication and its addition)."""
    columns = [f"GFLOP, N = {f * h * w}" for f, h, w in grids]
    lines = [f"| preset | attention | parameters | {' | '.join(columns)} |", "|---|---|---|" + "---|" * len(grids)]
    for size in found:
        counts = " | ".join(f"{flops / 1e9:,.0f}" for flops in size.flops)
        lines.append(f"| {size.preset} | {size.attention} | {size.parameters / 1e6:,.1f} M | {counts} |")
    return "\n".join(lines)
