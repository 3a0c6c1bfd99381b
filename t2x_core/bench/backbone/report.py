"""What was measured, as text: plain columns that can be copied."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from t2x_core.bench.backbone.options import PASSES, Grid
from t2x_core.bench.backbone.results import Cell, Entry, Results, Spread
from t2x_core.bench.machine import in_words

PAIRS = (
    ("pixart", "fused"),
    ("dense", "fused"),
    ("dense", "proxy"),
    ("released", "proxy"),
    ("released", "folded"),
    ("pixart", "dense"),
)
"""Whose times are divided: how many times faster the second one is."""


def header(results: Results) -> str:
    """The machine, and what was asked for."""
    asked = results.settings
    network = f"width {asked['width']}, {asked['depth']} blocks, {asked['heads']} heads, {asked['text']} text tokens"
    return "\n".join(
        [
            f"machine    {in_words(results.machine)}",
            f"networks   {network}",
            f"calls      {asked['device']}, {asked['precision']}, batch {asked['batch']}; medians (quartiles)",
        ]
    )


def title(grid: Grid, pass_: str) -> str:
    """ "N = 4096 (1×64×64), forward"."""
    return f"N = {prod(grid)} ({_times(grid)}), {PASSES[pass_]}"


def cell_table(cell: Cell) -> str:
    """One cell: the matrix product beside it, and a line for each network."""
    measured = [entry for entry in cell.entries if entry.seconds]
    about = [f"window {_times(cell.window)}"]
    if measured:
        peak = Spread.of([peak for entry in measured for peak in entry.peaks])
        low, median, high = (f"{value / 1e9:,.0f}" for value in (peak.low, peak.median, peak.high))
        about += [f"{len(measured[0].seconds)} rounds", f"matrix product {median} ({low} … {high}) GFLOP/s"]
    rows = [["", "ms", "GFLOP", "of blocks", "of peak", "memory"], *map(_row, cell.entries)]
    return f"{', '.join(about)}\n{columns(rows)}"


def _row(entry: Entry) -> list[str]:
    if not entry.seconds:
        return [entry.name, entry.failure or ""]
    peak, memory = entry.of_peak, "" if entry.memory is None else _bytes(entry.memory)
    return [
        entry.name,
        _spread(entry.time, 1e3, 1 if entry.time.median > 0.1 else 2),
        _rounded(entry.flops_network / 1e9),
        _rounded(entry.flops_blocks / 1e9),
        f"{100 * peak.median:.0f} % ({100 * peak.low:.0f} … {100 * peak.high:.0f})",
        memory,
    ]


def ratio_table(results: Results, pass_: str) -> str:
    """Times of one network over those of another, and operations over those of the released block; "" if none."""
    cells = [cell for cell in results.cells if cell.pass_ == pass_]
    rows = []
    for compiled in (False, True):
        after = ", compiled" if compiled else ""
        for slow, fast in PAIRS:
            found = [cell.ratio(slow + after, fast + after) for cell in cells]
            rows.append([f"time {slow} / {fast}{after}", *("" if r is None else _spread(r, 1, 2) for r in found)])
    for variant in results.parameters:
        found = [cell.ratio(variant, f"{variant}, compiled") for cell in cells]
        rows.append([f"time {variant}, as it is / compiled", *("" if r is None else _spread(r, 1, 2) for r in found)])
    for variant in ("proxy", "folded", "fused", "dense", "pixart"):
        shares = [_share(cell, variant, "released") for cell in cells]
        rows.append([f"operations of blocks, {variant} / released", *("" if s is None else f"{s:.3f}" for s in shares)])
    rows = [row for row in rows if any(row[1:])]
    if not rows:
        return ""
    top = ["", *(f"N = {cell.tokens} ({_times(cell.grid)})" for cell in cells)]
    return f"ratios, {PASSES[pass_]}\n{columns([top, *rows])}"


def _share(cell: Cell, variant: str, of: str) -> float | None:
    counts = {entry.variant: entry.flops_blocks for entry in cell.entries}
    return counts[variant] / counts[of] if variant in counts and of in counts else None


def memory_table(results: Results) -> str:
    """How memory grows with the frames of a clip; "" if there are no two clips to compare."""
    lines = []
    names = dict.fromkeys(entry.name for cell in results.cells for entry in cell.entries)
    for pass_ in PASSES:
        for name in names:
            for short, long, growth in results.memory_growth(name, pass_):
                frames = f"{short.grid[0]} → {long.grid[0]} frames (×{long.grid[0] / short.grid[0]:g})"
                lines.append([name, PASSES[pass_], frames, f"memory ×{growth:.2f}"])
    return f"memory of longer clips\n{columns(lines)}" if lines else ""


def attention_table(results: Results) -> str:
    """The attention's own operations over those of full self-attention, the paper's figures beside it."""
    rows = [["", "window", "paper", "proxy, formula", "proxy, counted", "fused, formula", "fused, counted"]]
    for cost in results.attention:
        shares = (cost.paper, cost.proxy, cost.proxy_counted, cost.fused, cost.fused_counted)
        rows.append([f"N = {cost.tokens}", _times(cost.window), *(f"{100 * share:.1f} %" for share in shares)])
    return f"attention without projections, over full self-attention\n{columns(rows)}"


def summary(results: Results) -> str:
    """All that compares cells."""
    counts = [[name, f"{count / 1e6:,.1f} M"] for name, count in results.parameters.items()]
    parts = [
        f"parameters\n{columns(counts)}" if counts else "",
        *(ratio_table(results, pass_) for pass_ in PASSES),
        memory_table(results),
        attention_table(results),
    ]
    return "\n\n".join(part for part in parts if part)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Aligned: the first column to the left, the others to the right."""
    count = max(len(row) for row in rows)
    widths = [max(len(row[i]) if i < len(row) else 0 for row in rows) for i in range(count)]
    lines = []
    for row in rows:
        cells = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=False)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def _spread(spread: Spread, scale: float, digits: int) -> str:
    median, low, high = (f"{scale * value:,.{digits}f}" for value in spread)
    return f"{median} ({low} … {high})"


def _rounded(value: float) -> str:
    """At least three digits."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 4}f}"


def _bytes(count: int) -> str:
    kibi = count / 1024
    return f"{kibi:,.0f} KiB" if kibi < 10240 else f"{kibi / 1024:,.0f} MiB"


def _times(numbers: Grid) -> str:
    return "×".join(map(str, numbers))
