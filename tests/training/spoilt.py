"""Training with losses that are spoilt on purpose.

Usage, for a process of its own: python -m tests.training.spoilt RUN FIRST LAST MAX_ATTEMPT [key=value …]; the loss of
slot 3 is NaN in steps FIRST … LAST (from 0) up to that attempt; prints one JSON line on what came of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.errors import TrainingError
from t2x_core.losses import TaskLoss
from t2x_core.recipe import to_plain
from t2x_core.sharding import local
from t2x_core.training import fit, parallel, run_folder
from t2x_core.types import Batch, Noised, SampleKey
from tests.conftest import TINY

Factor = Callable[[SampleKey], float]
"""What the loss of a sample is multiplied by."""
QUIET = ("logging.sample_every=0", "logging.validate_every=1000", "logging.final_score_samples=0", "logging.samples=1")


def nan_in(steps: range, attempts: int = 1) -> Factor:
    """NaN for the sample in slot 3, in these steps of the first `attempts` attempts."""
    return lambda key: math.nan if key.step in steps and key.slot == 3 and key.attempt < attempts else 1.0


def train(
    folder: Path, factor: Factor, *settings: str, resume: bool = False, extra: Sequence[Callback] = ()
) -> dict[str, Any]:
    """Trains the tiny recipe; returns its last checkpoint's weights."""
    assembly = load_assembly("quickstart", [*TINY, *QUIET, "optimizer.schedule=constant", *settings])
    folder.mkdir(exist_ok=True)
    if not resume and parallel.launched().rank == 0:  # which starts the others
        run_folder.write_run(folder, to_plain(assembly.recipe))
    module = build_module(assembly)
    ((name, loss),) = module.losses.items()

    def spoilt(velocity: Tensor, noised: Noised, batch: Batch) -> Tensor:
        return loss(velocity, noised, batch, {})[0] * torch.tensor([factor(key) for key in batch.keys])

    module.losses[name] = TaskLoss(spoilt)
    fit(assembly, module, build_data(assembly, module), folder, resume=resume, extra=extra)
    return {name: local(p.detach()).clone() for name, p in module.trainable()}


def report(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's report of skipped steps."""
    file = folder / run_folder.NAN_REPORT
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def digest(weights: dict[str, Tensor]) -> str:
    return hashlib.sha256(torch.cat([w.flatten() for w in weights.values()]).numpy().tobytes()).hexdigest()


if __name__ == "__main__":
    run, first, last, attempt, *overrides = sys.argv[1:]
    spoil = nan_in(range(int(first), int(last) + 1), int(attempt) + 1)
    try:
        outcome = digest(train(Path(run), spoil, *overrides))
    except TrainingError as error:
        outcome = str(error)
    print(json.dumps({"outcome": outcome}))
