"""Checkpoints: folders of safetensors files with a JSON index. No pickle is written or read, so none can run code.

    checkpoints/step_00000250/index.json              structure, plain values, and where the rows of each tensor are
                              rank_00000.safetensors  what rank 0 held: everything, or its rows of sharded tensors
    checkpoints/best.json                             which step had the lowest validation loss

A folder is written beside its place, synced and renamed: it is there whole, or not at all. On how many ranks a
checkpoint was written does not matter: a tensor is read by rows.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor

from t2x_core.errors import TrainingError, UserError
from t2x_core.plain_files import read_json, sync, write_whole
from t2x_core.runs import CHECKPOINT_FILE as INDEX
from t2x_core.sharding import first_row, is_written_by, local
from t2x_core.tensor_files import Piece, StoredTensor, checksum, save_tensors

log = logging.getLogger("t2x")

FOLDER = "checkpoints"
BEST = "best.json"
FORMAT = 2
"""1 had no checksums."""
DAMAGE = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError)
"""What reading a damaged or mistyped file may raise, besides SafetensorError."""


def read_checkpoint(folder: Path, verified: Collection[str] | None = ()) -> dict[str, Any]:
    """A checkpoint's content, tensors as `StoredTensor`.

    Args:
        verified: parts of the content (its first keys) of which all tensors are read and held against their checksums,
            None: of all of it.

    Raises:
        UserError: it is missing, damaged, or something else.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} is no checkpoint", hint="a checkpoint is a folder, such as checkpoints/step_00000250"
        )
    try:
        index = read_json(folder / INDEX)
        if index["format"] != FORMAT:
            raise UserError(f"{folder} was written by another version of t2x", hint=f"format {index['format']}")
        if index["checksum"] != _checksum(index):
            raise ValueError(f"{INDEX} is not what was written: its checksum differs")
        stored = {path: _stored(folder, entry) for path, entry in index["tensors"].items()}
        _check_files(folder, stored)
        for path, tensor in stored.items():
            if verified is None or path.split("/")[1] in verified:
                tensor.verify()
        content = _decode(index["content"], stored.__getitem__)
        if not isinstance(content, dict) or not isinstance(content["global_step"], int):
            raise ValueError("no steps")
    except UserError:
        raise
    except (*DAMAGE, SafetensorError) as error:
        what = f"{error.__class__.__name__}: {error}"
        raise UserError(f"{folder} is damaged, or no checkpoint of t2x ({what})") from error
    return content


def _stored(folder: Path, entry: Mapping[str, Any]) -> StoredTensor:
    pieces = []
    for first, end, file, name, check in entry["pieces"]:
        if Path(file).name != file:
            raise ValueError(f'"{file}" is outside of the checkpoint')
        pieces.append(Piece(first, end, folder / file, name, check))
    return StoredTensor(torch.Size(entry["shape"]), tuple(pieces))


def _check_files(folder: Path, stored: Mapping[str, StoredTensor]) -> None:
    """Every file is whole (safetensors compares its size with its table), and holds all that the index says."""
    wanted: dict[Path, set[str]] = {}
    for tensor in stored.values():
        row = 0
        for first, end, file, name, _ in tensor.pieces:
            if first != row:
                raise ValueError(f"rows {row} to {first} of {name} are missing")
            row = end
            wanted.setdefault(file, set()).add(name)
        if row != (tensor.shape[0] if tensor.shape else 1):
            raise ValueError("rows are missing")
    for file, names in wanted.items():
        with safe_open(file, "pt") as opened:
            if missing := names - set(opened.keys()):
                raise ValueError(f"{file.name} lacks {sorted(missing)[0]}")


def materialize(tree: Any) -> Any:
    """The same tree with tensors for `StoredTensor`s."""
    if isinstance(tree, StoredTensor):
        return tree.full()
    if isinstance(tree, dict):
        return {key: materialize(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(materialize(value) for value in tree)
    return tree


def write_checkpoint(content: Mapping[str, Any], folder: Path, together: bool = False) -> None:
    """Writes a tree of plain values and tensors to `folder`, which is there afterwards whole, or as it was before.

    Args:
        together: all ranks call this at once, and each writes what it holds of sharded tensors.

    Raises:
        TrainingError: it cannot be written, because the disk is full, say.
    """
    tensors: dict[str, Tensor] = {}
    structure = _encode(content, tensors, "")
    rank = dist.get_rank() if together else 0
    file, beside = f"rank_{rank:05d}.safetensors", folder.with_name(f".{folder.name}.part")
    mine = {path: local(tensor) for path, tensor in tensors.items() if is_written_by(tensor, rank)}
    mine = {path: part.cpu().contiguous() for path, part in mine.items()}
    pieces = {
        path: (first_row(tensors[path]), len(part) if part.ndim else 1, file, checksum(part))
        for path, part in mine.items()
    }

    with _failing_alike(folder, beside, together):
        if rank == 0:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
    with _failing_alike(folder, beside, together):
        if mine:
            save_tensors(mine, beside / file)
            sync(beside / file)
    everyone: list[_Written] = [pieces]
    if together:
        everyone = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(everyone, pieces)
    with _failing_alike(folder, beside, together):
        if rank == 0:
            table = {
                path: {"shape": list(tensor.shape), "pieces": _in_order(path, everyone)}
                for path, tensor in tensors.items()
            }
            index = {"format": FORMAT, "content": structure, "tensors": table}
            index["checksum"] = _checksum(index)
            write_whole(beside / INDEX, json.dumps(index))
            _put_in_place(beside, folder)


def _checksum(index: Mapping[str, Any]) -> int:
    """Of what an index says; the same of a value that has been written as JSON and read."""
    return zlib.crc32(json.dumps([index["content"], index["tensors"]]).encode())


_Written = Mapping[str, tuple[int, int, str, int]]
"""Path of a tensor → first row, rows, file and checksum of what a rank wrote of it."""


def _in_order(path: str, everyone: Sequence[_Written]) -> list[tuple[int, int, str, str, int]]:
    found = [pieces[path] for pieces in everyone if path in pieces]
    return sorted((first, first + rows, file, path, check) for first, rows, file, check in found)


class _failing_alike:  # noqa: N801 (reads as a phrase)
    """If this fails on one rank it fails on all, with a TrainingError; nothing half written is left behind."""

    def __init__(self, folder: Path, beside: Path, together: bool) -> None:
        self.folder, self.beside, self.together = folder, beside, together

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None and not isinstance(error, OSError | SafetensorError):
            return
        own = None if error is None else str(getattr(error, "strerror", None) or error)
        problems = [own]
        if self.together:
            problems = [None] * dist.get_world_size()
            dist.all_gather_object(problems, own)
        if problem := next((p for p in problems if p is not None), None):
            shutil.rmtree(self.beside, ignore_errors=True)
            raise TrainingError(
                f"cannot write {self.folder}: {problem}",
                hint="the checkpoints before it are untouched; make room and --resume",
            ) from error


def _put_in_place(beside: Path, folder: Path) -> None:
    """Renames; a folder of the same step that is already there goes first."""
    aside = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.replace(aside)
    beside.replace(folder)
    sync(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _encode(tree: Any, tensors: dict[str, Tensor], path: str) -> Any:
    """Plain values as JSON has them; tensors are put into `tensors` and referred to by path."""
    if isinstance(tree, Tensor):
        tensors[path] = tree.detach()
        return {"$tensor": path}
    if isinstance(tree, Mapping):
        items = [(key, _encode(value, tensors, f"{path}/{key}")) for key, value in tree.items()]
        plain = all(isinstance(key, str) and not key.startswith("$") for key in tree)
        return dict(items) if plain else {"$items": [list(item) for item in items]}
    if isinstance(tree, list | tuple):
        parts = [_encode(value, tensors, f"{path}/{i}") for i, value in enumerate(tree)]
        return parts if isinstance(tree, list) else {"$tuple": parts}
    if tree is None or isinstance(tree, str | bool | int | float):
        return tree
    raise TypeError(f"a checkpoint holds plain values and tensors, not {tree!r} at {path}")


def _decode(tree: Any, stored: Callable[[str], StoredTensor]) -> Any:
    if isinstance(tree, list):
        return [_decode(value, stored) for value in tree]
    if not isinstance(tree, dict):
        return tree
    match tree:
        case {"$tensor": path}:
            return stored(path)
        case {"$items": items}:
            return {key: _decode(value, stored) for key, value in items}
        case {"$tuple": parts}:
            return tuple(_decode(value, stored) for value in parts)
    return {key: _decode(value, stored) for key, value in tree.items()}


# Which there are


def checkpoint_of(run: Path, step: int) -> Path:
    """The folder of the checkpoint of an optimizer step."""
    return run / FOLDER / f"step_{step:08d}"


def step_of(checkpoint: Path) -> int:
    """The optimizer steps that were done when it was saved."""
    return int(checkpoint.name.removeprefix("step_"))


def checkpoints_of(run: Path) -> list[Path]:
    """The checkpoints of a run, the newest last."""
    found = (run / FOLDER).glob("step_*")
    return sorted((path for path in found if re.fullmatch("step_[0-9]{1,18}", path.name)), key=step_of)


def best_of(run: Path) -> int | None:
    """The step with the lowest validation loss, or None if none has been saved."""
    try:
        step = read_json(run / FOLDER / BEST)["step"]
        return step if isinstance(step, int) and checkpoint_of(run, step).is_dir() else None
    except DAMAGE:
        return None


def write_best(run: Path, step: int, loss: float) -> None:
    """Notes that the checkpoint of `step` has the lowest validation loss.

    Raises:
        TrainingError: it cannot be written.
    """
    try:
        write_whole(run / FOLDER / BEST, json.dumps({"step": step, "val_loss": loss}) + "\n")
    except OSError as error:
        hint = "the checkpoints are untouched; make room and --resume"
        raise TrainingError(f"cannot write {run / FOLDER / BEST}: {error.strerror}", hint=hint) from error


def newest(run: Path, verified: Collection[str] | None = ()) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint that can be read; of newer ones, which cannot, the log says so.

    Args:
        verified: of which parts the checksums are looked at (`read_checkpoint`).

    Raises:
        UserError: there is none.
    """
    problems: list[UserError] = []
    for folder in reversed(checkpoints_of(run)):
        try:
            content = read_checkpoint(folder, verified)
        except UserError as error:
            problems.append(error)
            continue
        for problem in problems:
            log.warning("%s; going back to %s", problem, folder.name)
        return folder, content
    raise problems[0] if problems else UserError(f"{run} has no checkpoint", hint="the run has not saved one yet")


def open_checkpoint(run: Path, which: str, verified: Collection[str] | None = ()) -> tuple[Path, dict[str, Any]]:
    """A run's checkpoint: "last" (if it is damaged, the one before), "best", or the number of a step.

    Args:
        verified: of which parts the checksums are looked at (`read_checkpoint`).

    Raises:
        UserError: there is none, or it cannot be read.
    """
    there = checkpoints_of(run)
    if which == "last" or not there:
        return newest(run, verified)
    if which != "best" and not re.fullmatch("[0-9]{1,18}", which):
        raise UserError(f'a checkpoint is last, best or the number of a step, not "{which}"')
    step = best_of(run) if which == "best" else int(which)
    if step is None:
        raise UserError(f"{run} has no best checkpoint", hint="it has not been validated yet; take the last one")
    folder = checkpoint_of(run, step)
    if folder not in there:
        steps = ", ".join(str(step_of(path)) for path in there)
        raise UserError(f"{run} has no checkpoint of step {step}", hint=f"there are: {steps}")
    return folder, read_checkpoint(folder, verified)
