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
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from t2x_core.errors import UserError
from t2x_core.runs import CHECKPOINT_FILE as INDEX
from t2x_core.sharding import first_row, is_written_by, local

log = logging.getLogger("t2x")

FOLDER = "checkpoints"
BEST = "best.json"
FORMAT = 1


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a checkpoint; nothing of it is read before it is asked for."""

    shape: torch.Size
    pieces: tuple[tuple[int, int, Path, str], ...]
    """First row, end row, file, and name in the file; in order."""

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start … stop - 1."""
        found = []
        for first, end, file, name in self.pieces:
            if max(first, start) < min(end, stop) or (start == stop == first):
                with safe_open(file, "pt") as opened:
                    found.append(opened.get_slice(name)[max(first, start) - first : min(end, stop) - first])
        return found[0] if len(found) == 1 else torch.cat(found)

    def full(self) -> Tensor:
        """All of it."""
        if len(self.pieces) > 1:
            return self.rows(0, self.shape[0])
        _, _, file, name = self.pieces[0]
        with safe_open(file, "pt") as opened:
            return opened.get_tensor(name)

    def like(self, tensor: Tensor) -> Tensor:
        """On the device of `tensor`, and sharded as it is; `tensor` has this shape."""
        if not isinstance(tensor, DTensor):
            return self.full().to(tensor.device)
        start, mine = first_row(tensor), local(tensor)
        rows = self.rows(start, start + len(mine)) if len(mine) else torch.empty_like(mine)
        return DTensor.from_local(
            rows.to(mine.device),
            tensor.device_mesh,
            tensor.placements,
            run_check=False,
            shape=tensor.shape,
            stride=tensor.stride(),
        )


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """A checkpoint's content, tensors as `StoredTensor`; UserError if it is missing, damaged, or something else."""
    if not folder.is_dir():
        raise UserError(
            f"{folder} is no checkpoint", hint="a checkpoint is a folder, such as checkpoints/step_00000250"
        )
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if index["format"] != FORMAT:
            raise UserError(f"{folder} was written by another version of t2x", hint=f"format {index['format']}")
        stored = {path: _stored(folder, entry) for path, entry in index["tensors"].items()}
        _check_files(folder, stored)
        content = _decode(index["content"], stored.__getitem__)
        if not isinstance(content, dict) or not isinstance(content["global_step"], int):
            raise ValueError("no steps")
    except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError) as error:
        if isinstance(error, UserError):
            raise
        what = f"{error.__class__.__name__}: {error}"
        raise UserError(f"{folder} is damaged, or no checkpoint of t2x ({what})") from error
    return content


def _stored(folder: Path, entry: Mapping[str, Any]) -> StoredTensor:
    pieces = []
    for first, end, file, name in entry["pieces"]:
        if Path(file).name != file:
            raise ValueError(f'"{file}" is outside of the checkpoint')
        pieces.append((first, end, folder / file, name))
    return StoredTensor(torch.Size(entry["shape"]), tuple(pieces))


def _check_files(folder: Path, stored: Mapping[str, StoredTensor]) -> None:
    """Every file is whole (safetensors compares its size with its table), and holds all that the index says."""
    wanted: dict[Path, set[str]] = {}
    for tensor in stored.values():
        row = 0
        for first, end, file, name in tensor.pieces:
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
        UserError: it cannot be written, because the disk is full, say.
    """
    tensors: dict[str, Tensor] = {}
    structure = _encode(content, tensors, "")
    rank = dist.get_rank() if together else 0
    file, beside = f"rank_{rank:05d}.safetensors", folder.with_name(f".{folder.name}.part")
    mine = {path: local(tensor) for path, tensor in tensors.items() if is_written_by(tensor, rank)}
    pieces = {path: (first_row(tensors[path]), len(part) if part.ndim else 1, file) for path, part in mine.items()}

    with _failing_alike(folder, beside, together):
        if rank == 0:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
    with _failing_alike(folder, beside, together):
        if mine:
            save_file({path: part.contiguous() for path, part in mine.items()}, beside / file)
            _sync(beside / file)
    everyone = [pieces]
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
            (beside / INDEX).write_text(json.dumps(index), encoding="utf-8")
            _sync(beside / INDEX)
            _sync(beside)
            _put_in_place(beside, folder)


def _in_order(path: str, everyone: Sequence[Mapping[str, tuple[int, int, str]]]) -> list[tuple[int, int, str, str]]:
    found = [pieces[path] for pieces in everyone if path in pieces]
    return sorted((first, first + rows, file, path) for first, rows, file in found)


class _failing_alike:  # noqa: N801 (reads as a phrase)
    """If this fails on one rank it fails on all, with a UserError; nothing half written is left behind."""

    def __init__(self, folder: Path, beside: Path, together: bool) -> None:
        self.folder, self.beside, self.together = folder, beside, together

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None and not isinstance(error, OSError | SafetensorError):
            return
        problems = [None if error is None else str(error)]
        if self.together:
            problems = [None] * dist.get_world_size()
            dist.all_gather_object(problems, None if error is None else str(error))
        if problem := next((p for p in problems if p is not None), None):
            shutil.rmtree(self.beside, ignore_errors=True)
            raise UserError(
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
    _sync(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
    return sorted((path for path in found if path.name[5:].isdigit()), key=step_of)


def best_of(run: Path) -> int | None:
    """The step with the lowest validation loss, or None if none has been saved."""
    try:
        step = int(json.loads((run / FOLDER / BEST).read_text())["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if checkpoint_of(run, step).is_dir() else None


def write_best(run: Path, step: int, loss: float) -> None:
    """Notes that the checkpoint of `step` has the lowest validation loss."""
    file = run / FOLDER / BEST
    beside = file.with_name(f".{BEST}.part")
    beside.write_text(json.dumps({"step": step, "val_loss": loss}) + "\n")
    beside.replace(file)


def newest(run: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint that can be read; of newer ones, which cannot, the log says so.

    Raises:
        UserError: there is none.
    """
    problems: list[UserError] = []
    for folder in reversed(checkpoints_of(run)):
        try:
            content = read_checkpoint(folder)
        except UserError as error:
            problems.append(error)
            continue
        for problem in problems:
            log.warning("%s; going back to %s", problem, folder.name)
        return folder, content
    raise problems[0] if problems else UserError(f"{run} has no checkpoint", hint="the run has not saved one yet")


def open_checkpoint(run: Path, which: str) -> tuple[Path, dict[str, Any]]:
    """A run's checkpoint: "last" (if it is damaged, the one before), "best", or the number of a step.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    there = checkpoints_of(run)
    if which == "last" or not there:
        return newest(run)
    if which != "best" and not which.isdigit():
        raise UserError(f'a checkpoint is last, best or the number of a step, not "{which}"')
    step = best_of(run) if which == "best" else int(which)
    if step is None:
        raise UserError(f"{run} has no best checkpoint", hint="it has not been validated yet; take the last one")
    folder = checkpoint_of(run, step)
    if folder not in there:
        steps = ", ".join(str(step_of(path)) for path in there)
        raise UserError(f"{run} has no checkpoint of step {step}", hint=f"there are: {steps}")
    return folder, read_checkpoint(folder)
