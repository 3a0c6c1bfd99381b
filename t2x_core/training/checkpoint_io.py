"""Lightning's side of `t2x_core.checkpoint`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import CheckpointIO

from t2x_core.checkpoint import materialize, read_checkpoint, write_checkpoint


class SafeCheckpointIO(CheckpointIO):
    """Checkpoints as folders of safetensors. Called by the first rank, or, `together`, by all at once."""

    def __init__(self, together: bool = False) -> None:
        self.together = together

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        write_checkpoint(checkpoint, Path(path), self.together)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """With full tensors, or, `together`, with `StoredTensor`s, of which each rank reads its rows."""
        content = read_checkpoint(Path(path))
        return content if self.together else materialize(content)

    def remove_checkpoint(self, path: Any) -> None:
        shutil.rmtree(path, ignore_errors=True)
