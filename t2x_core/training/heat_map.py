"""The loss by training step and time t: its history, and the image of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from t2x_core.types import RenderedSamples

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh

COLUMNS = 96
"""A history of more columns than this is halved."""


class LossHistory:
    """Sums of losses by bin of t, in columns of equal numbers of steps; of bounded size, however long the run is.

    When there are too many columns, each two neighbours become one, and later columns span twice as many steps.
    """

    def __init__(self, bins: int) -> None:
        self.bins = bins
        self.span = 0
        """Steps of a column."""
        self.ends: list[int] = []
        """The last step of each column."""
        self.sums: list[list[float]] = []
        self.counts: list[list[float]] = []

    def add(self, step: int, steps: int, sums: Sequence[float], counts: Sequence[float]) -> None:
        """What came in the `steps` steps up to `step`: sum of the losses and number of samples of each bin."""
        start = self.ends[-2] if len(self.ends) > 1 else 0
        if self.ends and self.ends[-1] - start < self.span:  # the last column is not full
            self._into_last(step, sums, counts)
        else:
            self.span = max(self.span, steps)
            self.ends.append(step)
            self.sums.append(list(sums))
            self.counts.append(list(counts))
        if len(self.ends) > COLUMNS:
            self._halve()

    def _into_last(self, step: int, sums: Sequence[float], counts: Sequence[float]) -> None:
        self.ends[-1] = step
        self.sums[-1] = [a + b for a, b in zip(self.sums[-1], sums, strict=True)]
        self.counts[-1] = [a + b for a, b in zip(self.counts[-1], counts, strict=True)]

    def _halve(self) -> None:
        columns = list(zip(self.ends, self.sums, self.counts, strict=True))
        self.span *= 2
        self.ends, self.sums, self.counts = [], [], []
        for i, column in enumerate(columns):
            if i % 2:
                self._into_last(*column)
            else:
                self.ends.append(column[0])
                self.sums.append(column[1])
                self.counts.append(column[2])

    def means(self) -> np.ndarray:
        """(bins, columns) mean losses; NaN where no sample fell."""
        sums, counts = (np.asarray(v, dtype=np.float64).reshape(-1, self.bins) for v in (self.sums, self.counts))
        with np.errstate(invalid="ignore"):
            return (sums / counts).T

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {"span": self.span, "ends": self.ends, "sums": self.sums, "counts": self.counts}

    def load(self, state: dict[str, Any]) -> None:
        self.span, self.ends = state["span"], list(state["ends"])
        self.sums, self.counts = list(state["sums"]), list(state["counts"])


def draw_heat_map(history: LossHistory, title: str) -> RenderedSamples:
    """Training steps across, t upwards; each bin relative to its own median, on a log scale, the last loss beside it.

    So rows whose losses differ a hundredfold look alike, and a spike stands out wherever it is.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 4.4), dpi=100, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    mesh = draw_on(axes, history)
    axes.set(title=title, xlabel="training step", ylabel="t (0 = data, 1 = noise)")
    scale = figure.colorbar(mesh, ax=axes, label="loss / median of the row", pad=0.12)
    scale.ax.yaxis.set_major_formatter(lambda value, _: f"{2**value:.2g}")
    canvas.draw()
    return RenderedSamples(torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy()).unsqueeze(0))


def draw_on(axes: Axes, history: LossHistory) -> QuadMesh:
    """The map itself: log2 of loss over median, cells without a finite loss left grey."""
    means = history.means()
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.log2(means / _medians(means)[:, None])
    seen = relative[np.isfinite(relative)]
    low, high = np.quantile(seen, (0.01, 0.97)) if seen.size else (0.0, 0.0)  # in powers of two
    edges = np.array([0, *(history.ends or [1])])
    cells = np.ma.masked_invalid(relative if history.ends else np.full((history.bins, 1), np.nan))
    axes.set_facecolor("0.88")
    borders = np.linspace(0, 1, history.bins + 1)
    mesh = axes.pcolormesh(edges, borders, cells, vmin=min(low, -0.1), vmax=max(high, 0.1), cmap="viridis")
    for row, losses in enumerate(means):
        if (known := losses[np.isfinite(losses)]).size:
            axes.annotate(f"{known[-1]:.3g}", (1.01, (row + 0.5) / history.bins), xycoords="axes fraction", va="center")
    axes.annotate("last loss", (1.01, 1.02), xycoords="axes fraction")
    return mesh


def _medians(means: np.ndarray) -> np.ndarray:
    """(bins,) median of each row's finite values; NaN where there are none."""
    return np.array([np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else np.nan for row in means])
