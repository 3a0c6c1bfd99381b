"""A base, and a LoRA of each kind that was trained on it."""

from __future__ import annotations

import pytest
import torch

from tests.lora.lora_runs import FAST, KINDS, trained


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    torch.set_num_threads(1)
    return trained(tmp_path_factory.mktemp("base") / "run")


@pytest.fixture(scope="session")
def runs(base, tmp_path_factory):
    """Kind → a run that trained such a LoRA on `base`."""
    root = tmp_path_factory.mktemp("tuned")
    return {kind: trained(root / kind, f"backbone.weights={base}", FAST, *more) for kind, more in KINDS.items()}
