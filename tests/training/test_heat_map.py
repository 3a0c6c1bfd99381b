from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from t2x_core.training.heat_map import COLUMNS, LossHistory, draw_heat_map, draw_on


def history(losses: dict[int, tuple[float, ...]], bins: int = 2) -> LossHistory:
    """One sample a bin in each step; NaN: none."""
    made = LossHistory(bins)
    for step, values in losses.items():
        counts = [0.0 if math.isnan(v) else 1.0 for v in values]
        made.add(step, 1, [0.0 if math.isnan(v) else v for v in values], counts)
    return made


def test_columns_are_means():
    made = LossHistory(2)
    made.add(10, 10, [6.0, 0.0], [3.0, 0.0])
    made.add(20, 10, [1.0, 5.0], [2.0, 1.0])
    np.testing.assert_array_equal(made.means(), [[2.0, 0.5], [np.nan, 5.0]])
    assert made.ends == [10, 20]


@pytest.mark.parametrize("steps", [COLUMNS, COLUMNS + 1, 5 * COLUMNS + 3])
def test_however_long_a_run_is_its_history_is_short_and_complete(steps):
    made = history({step: (step, 1.0) for step in range(1, steps + 1)})
    assert COLUMNS / 2 <= len(made.ends) <= COLUMNS
    assert made.ends == sorted(set(made.ends))
    assert made.ends[-1] == steps
    assert sum(s[0] for s in made.sums) == steps * (steps + 1) / 2
    widths = np.diff([0, *made.ends])
    assert set(widths[:-1]) == {made.span}
    assert widths[-1] <= made.span


def test_a_history_goes_on_from_its_state():
    losses = {step: (float(step), 1.0) for step in range(1, 300)}
    whole = history(losses)
    first = history({step: v for step, v in losses.items() if step <= 150})
    again = LossHistory(2)
    again.load(first.state())
    for step in range(151, 300):
        again.add(step, 1, losses[step], [1.0, 1.0])
    assert again.state() == whole.state()


def cells(made: LossHistory) -> tuple[np.ma.MaskedArray, QuadMesh]:
    """(bins, columns) of the map, and the map."""
    mesh = draw_on(Figure().add_subplot(), made)
    return mesh.get_array().reshape(made.bins, -1), mesh


def test_each_row_is_relative_to_its_own_median():
    """A bin whose loss falls runs through the colours as much as one with a hundred times its loss."""
    drawn, mesh = cells(history({step: (0.01 / step, 1.0 / step) for step in range(1, 9)}))
    np.testing.assert_allclose(drawn[0], drawn[1])
    losses = 1 / np.arange(1, 9)
    np.testing.assert_allclose(drawn[0], np.log2(losses / np.median(losses)))
    assert mesh.get_clim()[1] == pytest.approx(drawn[0, 0])  # both rows' worst cell has the last colour


def test_cells_without_samples_have_no_colour():
    drawn, _ = cells(history({1: (1.0, math.nan), 2: (1.0, 2.0)}))
    assert np.ma.getmaskarray(drawn).tolist() == [[False, False], [True, False]]


def test_the_last_loss_of_each_row_stands_beside_it():
    axes = Figure().add_subplot()
    draw_on(axes, history({1: (1.0, 0.25), 2: (3.0, math.nan)}))
    assert [text.get_text() for text in axes.texts] == ["3", "0.25", "last loss"]


@pytest.mark.parametrize(
    "losses",
    [{}, {1: (math.nan, math.nan)}, {1: (0.0, 1.0)}, {1: (1.0, 1.0), 2: (math.inf, 1.0)}, {10**7: (1.0, 2.0)}],
)
def test_strange_histories_are_drawn_too(losses):
    assert draw_heat_map(history(losses), "title").frames.shape[0] == 1
