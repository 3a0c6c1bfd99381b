"""Operations of a forward pass, or of forward and backward, counted on tensors without content.

A product of matrices (m, k) · (k, n) is 2·m·k·n operations; anything else is left out. An attention is counted as the
two products that it is (four in the backward pass), whatever kernel does it: what a kernel computes once more to save
memory is not counted. torch's counter does not know the kernels of the CPU at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from t2x_core.bench.backbone.networks import Inputs, Network, build
from t2x_core.bench.backbone.options import Grid, Options


@dataclass(frozen=True)
class Flops:
    """Operations of one call."""

    network: int
    """All of it."""
    blocks: int
    """Without the embeddings of patches, time and text, and without the head."""


def count(variant: str, options: Options, grid: Grid, backward: bool) -> Flops:
    """Of a variant on a token grid; what is computed once for all steps of a sampler is left out."""
    meta, options = torch.device("meta"), replace(options, precision="32-true")
    network, inputs = build(variant, options, grid, meta), Inputs.make(options, grid, meta)
    whole = _count(network, inputs, backward)
    return Flops(whole, _count(network.twice(), inputs, backward) - whole)


def _count(network: Network, inputs: Inputs, backward: bool) -> int:
    with sdpa_kernel(SDPBackend.MATH), torch.set_grad_enabled(backward):
        if network.keeps:
            network(inputs)
        with FlopCounterMode(display=False) as counter:
            output = network(inputs)
            if backward:
                output.backward(inputs.gradient.view_as(output))
    return counter.get_total_flops()
