"""Memory at its peak, where it is known."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from t2x_core.bench.backbone.memory import peak_on_cpu

MIB = 2**20


def of_mib(count: float) -> torch.Tensor:
    return torch.ones(int(count * MIB / 4))


def test_what_lives_at_the_same_time_counts():
    x = of_mib(4)

    def compute():
        a = x + 1  # 4
        b = a * 2  # 8
        del a
        c = b - 1  # 8
        del b
        return c.view(2, -1).add_(1)  # nothing new

    assert peak_on_cpu(compute) == 8 * MIB


def test_what_was_there_before_does_not_count():
    x = of_mib(4)
    assert peak_on_cpu(lambda: x.mul_(2)) == 0
    assert peak_on_cpu(lambda: x.view(2, -1)[1]) == 0


def test_the_backward_pass_counts():
    x = of_mib(4).requires_grad_()

    def compute():
        x.grad = None
        y = x.exp()  # 4 MiB, kept for the backward pass
        y.sum().backward()  # the gradient of y is a view of one number; that of x 4 MiB

    assert peak_on_cpu(compute) == 8 * MIB + 2 * 4  # the sum, and its gradient


LARGE = """
import sys, torch
from t2x_core.bench.backbone.measure import Call
from t2x_core.bench.backbone.memory import peak_on_cpu
from t2x_core.bench.backbone.networks import Inputs, build
from t2x_core.bench.backbone.options import Options

torch.set_num_threads(1)
options, grid, device = Options(width=256, depth=1, heads=4, text=8), (1, 32, 32), torch.device("cpu")
inputs = Inputs.make(options, grid, device)

def size(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) * 1024

for variant in ("proxy", "fused", "dense"):
    call = Call(build(variant, options, grid, device), inputs, True, options)
    call()
    call()
    call.release()
    open("/proc/self/clear_refs", "w").write("5")
    before = size("VmRSS")
    call()
    print(size("VmHWM") - before, end=" ")
    call.release()
    print(peak_on_cpu(call))
"""


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of a process cannot be reset here"
)
def test_a_process_grows_by_as_much():
    """Where each tensor has pages of its own, so that malloc neither keeps nor splits any."""
    own_pages = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    root = str(Path(__file__).parents[2])
    environment = os.environ | own_pages | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, env=environment, check=True)
    for line in done.stdout.splitlines():
        grown, counted = map(int, line.split())
        assert counted == pytest.approx(grown, rel=0.05), done.stdout
