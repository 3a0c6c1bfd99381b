"""Operations, against what one counts by hand."""

from __future__ import annotations

import pytest

from t2x_core.bench.backbone.attention_cost import attention_costs
from t2x_core.bench.backbone.counting import count
from t2x_core.bench.backbone.networks import TEXT_WIDTH
from t2x_core.bench.backbone.options import Options, missing_pixart

D, T, N, L, M = 64, 10, 64, 4, 16
OPTIONS = Options(width=D, depth=3, heads=2, text=T)
GRID = (1, 8, 8)

LATENT = 4 * 2 * 2  # channels of a patch
AROUND = N * LATENT * D * 2 + (256 + D + 6 * D) * D + T * (TEXT_WIDTH + D) * D
"""Multiplications of patches in and out, of time and its modulation, and of the text."""
TEXT = 2 * N * D * D + 2 * N * T * D
"""Of the text attention but its keys and values, which are 2·T·D²."""
DENSE = (4 + 8) * N * D * D + 2 * N * N * D + TEXT


def test_dense():
    found = count("dense", OPTIONS, GRID, backward=False)
    assert found.blocks == 2 * 3 * (DENSE + 2 * T * D * D)
    assert found.network == found.blocks + 2 * AROUND


def test_a_batch_costs_as_often_and_a_backward_pass_twice_as_much():
    once, twice = (
        count("dense", Options(width=D, depth=2, heads=2, text=T, batch=b), GRID, backward=False) for b in (1, 2)
    )
    assert twice.network == 2 * once.network
    both = count("dense", Options(width=D, depth=2, heads=2, text=T), GRID, backward=True)
    assert both.blocks == 3 * once.blocks
    inputs = 2 * (N * LATENT + 256 + T * TEXT_WIDTH) * D  # whose gradients nobody wants: latents, sinusoids, text
    assert both.network == 3 * once.network - inputs


def test_the_blocks_of_the_paper():
    shifted = 5 * 5 * L  # slots: padding in front of each axis makes one window more
    attention = 2 * M * M * D + 2 * N * M * D + 2 * N * L * D + 2 * shifted * L * D
    proxies = 4 * M * D * D + 2 * M * D * D
    released = (4 + 4 + 3 + 1 + 8) * N * D * D + proxies + attention + TEXT
    linears = {"released": 2, "proxy": 0, "folded": 1}
    for variant, more in linears.items():
        text = 0 if variant == "folded" else 2 * T * D * D
        own = released + (more - 2) * N * D * D
        # the shifted window attention projects tokens, never padding
        expected = own + text
        assert count(variant, OPTIONS, GRID, backward=False).blocks == 2 * 3 * expected, variant


@pytest.mark.skipif(missing_pixart(), reason="diffusers is not installed")
def test_pixart_costs_what_dense_costs():
    pytest.importorskip("diffusers")
    for backward in (False, True):
        theirs, ours = (count(name, OPTIONS, GRID, backward).blocks for name in ("pixart", "dense"))
        assert theirs == ours


def test_the_attention_of_the_paper():
    costs = attention_costs(OPTIONS)
    assert [cost.tokens for cost in costs] == [256, 1024, 4096, 16384]
    for cost in costs[:3]:
        assert cost.proxy == pytest.approx(cost.paper, abs=0.0015)
    assert costs[3].proxy == pytest.approx(0.0352, abs=0.0001)  # with windows of 16×16; the paper says 0.023
    for cost in costs:
        shifted = cost.proxy_counted - cost.proxy
        assert 0 < shifted < 0.006
        assert cost.fused < cost.fused_counted < cost.proxy_counted
