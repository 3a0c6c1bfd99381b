"""Who measures when, and what follows from given times."""

from __future__ import annotations

import pytest

from t2x_core.bench.backbone.report import cell_table, memory_table, ratio_table
from t2x_core.bench.backbone.results import Cell, Entry, Results, Spread
from t2x_core.bench.backbone.rounds import run_rounds


class Machine:
    """A machine with a clock that writes down who was at work; the matrix product gets slower each time."""

    def __init__(self) -> None:
        self.now, self.log, self.products = 0.0, "", 0

    def work(self, name: str, seconds: float) -> float:
        self.log += name
        self.now += seconds
        return seconds

    def peak(self) -> float:
        self.work("-", 0)
        self.products += 1
        return 12 / self.products


def test_the_networks_take_turns_with_the_matrix_product_in_between():
    machine = Machine()
    calls = {name: lambda name=name: machine.work(name, 2) for name in "abc"}
    turns = run_rounds(calls, machine.peak, rounds=4, budget=1000, least=3, clock=lambda: machine.now)
    assert machine.log == "-a-b-c-" + "-b-c-a-" + "-c-a-b-" + "-a-b-c-"
    assert turns["a"].seconds == [2, 2, 2, 2]
    # a is between the products 1 and 2, of 12 and 6 operations a second: 2 operations take 1/12 + 1/6 seconds
    assert turns["a"].peaks[0] == pytest.approx(8)
    assert turns["b"].peaks[0] == pytest.approx(2 / (2 / 12 + 3 / 12))


@pytest.mark.parametrize(("budget", "rounds"), [(0, 3), (25, 4), (26, 4), (60, 9)])
def test_a_budget_ends_the_rounds_but_not_the_first_three(budget, rounds):
    machine = Machine()
    calls = {name: lambda name=name: machine.work(name, 3) for name in "ab"}
    turns = run_rounds(calls, machine.peak, rounds=9, budget=budget, least=3, clock=lambda: machine.now)
    assert len(turns["a"].seconds) == len(turns["b"].peaks) == rounds


def entry(variant: str, seconds: list[float], flops: int = 100, memory: int | None = None) -> Entry:
    return Entry(variant, False, flops, flops // 2, memory, seconds, [50.0] * len(seconds))


def test_ratios_are_those_of_each_round():
    cell = Cell(
        (1, 2, 2), (1, 2, 2), "forward", [entry("dense", [2.0, 30.0, 4.0]), entry("fused", [1.0, 10.0, 4.0], flops=50)]
    )
    assert cell.ratio("dense", "fused") == Spread(median=2, low=1, high=3)  # not 4 / 4, the ratio of the medians
    assert cell.ratio("pixart", "fused") is None
    assert cell.entries[0].time == Spread(4, 2, 30)
    assert cell.entries[0].of_peak == Spread(0.5, 100 / 30 / 50, 1)  # 100 operations in 4 s, where 50 a second could be
    table = ratio_table(Results({}, {}, {"dense": 1}, cells=[cell]), "forward")
    assert "time dense / fused  2.00 (1.00 … 3.00)" in table
    assert "50 % (7 … 100)" in cell_table(cell)


def test_operations_are_held_against_the_released_block():
    cell = Cell((1, 2, 2), (1, 2, 2), "forward", [entry("released", [1.0], 200), entry("folded", [1.0], 190)])
    table = ratio_table(Results({}, {}, {}, cells=[cell]), "forward")
    assert table.splitlines()[-1].split() == ["operations", "of", "blocks,", "folded", "/", "released", "0.950"]


def test_memory_is_compared_between_clips_that_differ_in_frames():
    shapes = {(16, 4, 4): 100, (64, 4, 4): 380, (64, 8, 8): 10**6, (1, 4, 4): 1}
    cells = [
        Cell(grid, (4, 2, 2), "backward", [entry("fused", [1.0], memory=memory)]) for grid, memory in shapes.items()
    ]
    results = Results({}, {}, cells=cells)
    assert [growth for _, _, growth in results.memory_growth("fused", "backward")] == [3.8]
    assert memory_table(results).splitlines()[1] == "fused  forward + backward  16 → 64 frames (×4)  memory ×3.80"


def test_a_network_that_failed_has_a_line_and_no_times():
    cell = Cell((1, 2, 2), (1, 2, 2), "forward", [Entry("dense", True, 1, 1, failure="out of memory")])
    assert "dense, compiled  out of memory" in cell_table(cell)
    assert cell.entry("dense, compiled") is None
    assert ratio_table(Results({}, {}, {"dense": 1}, cells=[cell]), "forward") == ""
