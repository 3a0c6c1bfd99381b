"""Checkpoint files: whole or not there, and read without running code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from t2x_core.errors import UserError


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU; UserError if it is missing, damaged, or holds more than plain values."""
    if not path.is_file():
        raise UserError(f"{path} does not exist", hint="the run has not saved it yet")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no exception of its own; its advice is to run what the file says
        raise UserError(f"{path} is damaged or no checkpoint of t2x", hint="T2X_DEBUG=1 shows what it is") from error


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside, syncs, renames: whenever the power goes, the old file or the new one is there, whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.part")
        try:
            with beside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
            beside.unlink(missing_ok=True)
            raise UserError(
                f"cannot write {path}: {error}", hint="the checkpoint before it is untouched; make room and --resume"
            ) from error
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Always with `weights_only=True`, whatever is asked for."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
