"""Where the tests of `-m gpu` run. T2X_TEST_DEVICE=cpu tries their bodies on a CPU, as far as it can."""

from __future__ import annotations

import os

import pytest
import torch

DEVICE = os.environ.get("T2X_TEST_DEVICE", "cuda")
ACCELERATOR = "trainer.accelerator=" + ("gpu" if DEVICE == "cuda" else "cpu")
marks = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="torch sees no GPU"),
]
cuda_only = pytest.mark.skipif(not torch.cuda.is_available(), reason="only CUDA can do it")
