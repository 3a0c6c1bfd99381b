"""The loss by training step and time t: its history, and the image of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from t2x_core.types import RenderedSamples

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


INK, FAINT, PAPER, EMPTY = (40, 40, 40), (120, 120, 120), (255, 255, 255), (225, 225, 225)
LEFT, TOP, RIGHT, BOTTOM = 84, 62, 206, 60  # margins around the map, in pixels
WIDTH, ROW = 576, 32  # of the map; of a bin
VIRIDIS = np.array(
    [(68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141), (39, 173, 129), (92, 200, 99),
     (170, 220, 50), (253, 231, 37)],
    dtype=np.float64,
)  # fmt: skip
"""Nine colours of the perceptually uniform map "viridis" (van der Walt & Smith 2015), evenly spaced."""


def draw_heat_map(history: LossHistory, title: str) -> RenderedSamples:
    """Training steps across, t upwards; each bin relative to its own median, on a log scale, the last loss beside it.

    So rows whose losses differ a hundredfold are seen alike, and a spike stands out wherever it is.
    """
    means = history.means()
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.log2(means / _medians(means)[:, None])
    seen = relative[np.isfinite(relative)]
    low, high = (float(q) for q in np.quantile(seen, (0.01, 0.97))) if seen.size else (0.0, 0.0)  # in powers of two
    low, high = min(low, -0.1), max(high, 0.1)
    height = ROW * history.bins
    sheet = Image.new("RGB", (LEFT + WIDTH + RIGHT, TOP + height + BOTTOM), PAPER)
    draw, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(17), ImageFont.load_default(15)
    draw.text((LEFT, 12), title, INK, ImageFont.load_default(20))

    last = history.ends[-1] if history.ends else 1
    edges = [LEFT + round(WIDTH * step / last) for step in [0, *history.ends]]
    for row in range(history.bins):
        y = TOP + height - (row + 1) * ROW
        for column, value in enumerate(relative[row]):
            colour = _colour((value - low) / (high - low)) if np.isfinite(value) else EMPTY
            draw.rectangle((edges[column], y, edges[column + 1] - 1, y + ROW - 1), colour)
        filled = means[row][np.isfinite(means[row])]
        if filled.size:
            draw.text((LEFT + WIDTH + 8, y + ROW // 2), f"{filled[-1]:.3g}", INK, small, "lm")
    for row in range(history.bins + 1):
        y = TOP + height - row * ROW
        draw.line((LEFT - 5, y, LEFT - 1, y), FAINT)
        draw.text((LEFT - 9, y), f"{row / history.bins:.1f}", INK, font, "rm")
    for step in _ticks(last):
        x = LEFT + WIDTH * step / last
        draw.line((x, TOP + height, x, TOP + height + 5), FAINT)
        draw.text((x, TOP + height + 8), f"{step:,}", INK, font, "ma")
    draw.text((LEFT + WIDTH / 2, TOP + height + 34), "training step", FAINT, small, "ma")
    draw.text((18, TOP + height / 2), "t", FAINT, font, "lm")
    draw.text((LEFT - 9, TOP - 14), "noise", FAINT, small, "rs")
    draw.text((LEFT - 9, TOP + height + 28), "data", FAINT, small, "rs")
    draw.text((LEFT + WIDTH + 8, TOP - 14), "last loss", FAINT, small, "ls")
    _draw_scale(draw, low, high, (LEFT + WIDTH + 100, TOP, 18, height), small)
    return RenderedSamples(torch.from_numpy(np.array(sheet)).unsqueeze(0))


def _medians(means: np.ndarray) -> np.ndarray:
    """(bins,) median of each row's finite values; NaN where there are none."""
    return np.array([np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else np.nan for row in means])


def _colour(value: float) -> tuple[int, int, int]:
    """0 … 1 → RGB; what lies outside is cut off."""
    place = min(1.0, max(0.0, value)) * (len(VIRIDIS) - 1)
    below = min(int(place), len(VIRIDIS) - 2)
    red, green, blue = VIRIDIS[below] + (VIRIDIS[below + 1] - VIRIDIS[below]) * (place - below)
    return round(red), round(green), round(blue)


def _ticks(last: int) -> range:
    """A few round numbers from 0 to `last`."""
    power = 10 ** (len(str(last)) - 1)
    wide = next(s for s in (power // 5, power // 2, power, power * 2) if s and last / s <= 8)
    return range(0, last + 1, wide)


def _draw_scale(
    draw: ImageDraw.ImageDraw,
    low: float,
    high: float,
    box: tuple[int, int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """The colours of 2^low … 2^high times the median, upwards in `box` (x, y, width, height)."""
    x, y, width, height = box
    for line in range(height):
        draw.line((x, y + line, x + width, y + line), _colour(1 - line / (height - 1)))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        at = y + (1 - share) * (height - 1)
        draw.line((x + width, at, x + width + 4, at), FAINT)
        draw.text((x + width + 8, at), f"{2 ** (low + (high - low) * share):.2f}", INK, font, "lm")
    draw.text((x - 4, y - 14), "loss / median", FAINT, font, "ls")
