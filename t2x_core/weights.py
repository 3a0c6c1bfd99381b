"""The averaged weights of a run, of one of its checkpoints, or of an exported folder, by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2x_core.checkpoint import open_checkpoint, read_checkpoint
from t2x_core.errors import UserError
from t2x_core.plain_files import parse_json
from t2x_core.runs import CHECKPOINT_FILE, MODEL_FILE
from t2x_core.tensor_files import StoredTensor, checksum
from t2x_core.weight_files import stored_tensors

Weights = dict[str, StoredTensor]

VERIFIED = ("state_dict", "ema")
"""Parts of a checkpoint that are read here, and so held against their checksums."""


Records = Any
"""Path in the recipe → origin and hash of a part that is not stored (`t2x_core.frozen`)."""


def open_weights(folder: Path, which: str = "last") -> tuple[Path, Weights, Records]:
    """The file or the checkpoint in a folder, its weights, and what it says of the parts whose weights it lacks.

    Args:
        folder: a run, a checkpoint of one, or what `T2XPipeline.save_pretrained` wrote.
        which: of a run: "last", "best" or the number of a step.

    Raises:
        UserError: there are none, or they are damaged.
    """
    if (folder / MODEL_FILE).is_file():
        return folder / MODEL_FILE, *_exported(folder / MODEL_FILE)
    if (folder / CHECKPOINT_FILE).is_file():
        file, content = folder, read_checkpoint(folder, VERIFIED)
    else:
        file, content = open_checkpoint(folder, which, VERIFIED)
    if "ema" not in content:
        raise UserError(f"{file} holds no averaged weights")
    weights = {**content["state_dict"], **content["ema"]["weights"]}  # what is frozen has no average
    return file, weights, content.get("referenced")


def _exported(file: Path) -> tuple[Weights, Records]:
    about, sums = about_exported(file), {}
    if isinstance(about.get("checksums"), Mapping):  # an earlier t2x wrote none
        sums = about["checksums"]
    weights = stored_tensors(file)[0]
    for name, tensor in weights.items():
        if name in sums and checksum(tensor.full()) != sums[name]:
            raise UserError(f"{file} is damaged: {name} is not what was written (its checksum differs)")
    return weights, about.get("referenced")


def about_exported(file: Path) -> dict[str, Any]:
    """What `T2XPipeline.save_pretrained` noted besides the weights.

    Raises:
        UserError: the file is damaged.
    """
    metadata = stored_tensors(file)[1]
    try:
        return parse_json(metadata.get("t2x", "{}"))
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}") from error
