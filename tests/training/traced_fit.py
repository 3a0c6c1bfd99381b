"""Trains in a process of its own and writes down each micro-batch: samples, losses to the last bit, weights.

Usage: python traced_fit.py RUN TRACE SECONDS_PER_STEP [key=value …]; goes on if RUN has a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.recipe import to_plain
from t2x_core.sharding import local
from t2x_core.training import fit, parallel, run_folder


class Trace(Callback):
    """One JSON line for each micro-batch, written at once."""

    def __init__(self, file: Path, pause: float) -> None:
        self.file, self.pause = file, pause

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        weights = torch.cat([local(p.detach()).flatten() for _, p in pl_module.trainable()])
        line = {
            "step": batch.keys[0].step,
            "keys": [list(key) for key in batch.keys],
            "losses": [loss.hex() for loss in outputs["losses"].tolist()],
            "weights": hashlib.sha256(weights.cpu().numpy().tobytes()).hexdigest(),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
        }
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        time.sleep(self.pause)


if __name__ == "__main__":
    run, trace, pause, *overrides = sys.argv[1:]
    assembly = load_assembly("quickstart", overrides)
    folder = Path(run)
    folder.mkdir(parents=True, exist_ok=True)
    if parallel.launched().rank == 0:  # which starts the others
        run_folder.write_run(folder, to_plain(assembly.recipe))
    module = build_module(assembly)
    fit(assembly, module, build_data(assembly, module), folder, resume=True, extra=[Trace(Path(trace), float(pause))])
