"""What was measured, as a JSON file holds it, and the figures that follow from it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from t2x_core.bench.backbone.options import Grid
from t2x_core.errors import UserError


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, _, high = statistics.quantiles(values, n=4)
        return cls(statistics.median(values), low, high)


@dataclass
class Entry:
    """One network in one cell."""

    variant: str
    compiled: bool
    flops_network: int
    """Operations of one call."""
    flops_blocks: int
    """Those of the blocks alone."""
    memory: int | None = None
    """Bytes at the peak beyond weights and inputs; None: not known (compiled on a CPU)."""
    seconds: list[float] = field(default_factory=list)
    """Of one call, round by round."""
    peaks: list[float] = field(default_factory=list)
    """Operations per second of the product of matrices beside it."""
    failure: str | None = None
    """Why there are no times."""

    @property
    def name(self) -> str:
        return f"{self.variant}, compiled" if self.compiled else self.variant

    @property
    def time(self) -> Spread:
        """Seconds of one call."""
        return Spread.of(self.seconds)

    @property
    def of_peak(self) -> Spread:
        """Operations per second over those of the product of matrices in the same round."""
        return Spread.of([self.flops_network / s / p for s, p in zip(self.seconds, self.peaks, strict=True)])


@dataclass
class Cell:
    """One token grid and one pass."""

    grid: Grid
    """(f, h, w)."""
    window: Grid
    """(pf, ph, pw), of proxy and fused."""
    pass_: str
    """forward, or backward: forward + backward."""
    entries: list[Entry]

    @property
    def tokens(self) -> int:
        return prod(self.grid)

    def entry(self, name: str) -> Entry | None:
        """The network of that name, if it was measured."""
        return next((e for e in self.entries if e.name == name and e.seconds), None)

    def ratio(self, slow: str, fast: str) -> Spread | None:
        """Time of one network over that of another, round by round; None if one of them is not there."""
        a, b = self.entry(slow), self.entry(fast)
        return None if a is None or b is None else Spread.of([x / y for x, y in zip(a.seconds, b.seconds, strict=True)])


@dataclass
class AttentionCost:
    """Operations of the attentions of a block without their projections, over those of dense attention."""

    tokens: int
    window: Grid
    paper: float
    """As the paper prints it for `proxy`."""
    proxy: float
    """By (M² + N·M + 2·N·L) / N²."""
    proxy_counted: float
    """Of our network: a shifted cut has more windows than the formula knows."""
    fused: float
    """By (L + M) / N."""
    fused_counted: float


@dataclass
class Results:
    """All of a run."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    parameters: dict[str, int] = field(default_factory=dict)
    attention: list[AttentionCost] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)

    def memory_growth(self, name: str, pass_: str) -> list[tuple[Cell, Cell, float]]:
        """Of each two clips that differ in their frames alone: the memory of the longer over that of the shorter."""
        found = []
        for short in self.cells:
            for long in self.cells:
                a, b = short.entry(name), long.entry(name)
                alike = short.pass_ == long.pass_ == pass_ and short.grid[1:] == long.grid[1:] and short.grid[0] > 1
                if alike and short.grid[0] < long.grid[0] and a and b and a.memory and b.memory:
                    found.append((short, long, b.memory / a.memory))
        return found

    def as_json(self) -> dict[str, Any]:
        """Everything, with medians and quartiles beside the times."""
        content = asdict(self)
        for cell, written in zip(self.cells, content["cells"], strict=True):
            for entry, row in zip(cell.entries, written["entries"], strict=True):
                if entry.seconds:
                    row["time"], row["of_peak"] = entry.time._asdict(), entry.of_peak._asdict()
        return content

    @classmethod
    def read(cls, file: Path) -> Results:
        """From a file of `as_json`. UserError if it is none."""
        try:
            content = json.loads(file.read_text())
            cells = [
                Cell(
                    _triple(cell["grid"]),
                    _triple(cell["window"]),
                    cell["pass_"],
                    [Entry(**{k: v for k, v in e.items() if k not in ("time", "of_peak")}) for e in cell["entries"]],
                )
                for cell in content["cells"]
            ]
            costs = [AttentionCost(**cost | {"window": _triple(cost["window"])}) for cost in content["attention"]]
            return cls(content["machine"], content["settings"], content["parameters"], costs, cells)
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror}", where="command line") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is no file of t2x bench backbone --json", where="command line") from error


def _triple(values: Sequence[int]) -> Grid:
    a, b, c = values
    return a, b, c
