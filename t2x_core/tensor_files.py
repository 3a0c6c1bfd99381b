"""Tensors in safetensors files: written with checksums, read by rows, and only when they are asked for."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from t2x_core.errors import UserError
from t2x_core.sharding import first_row, local


class Piece(NamedTuple):
    """Rows of a tensor in a file."""

    first: int
    end: int
    """The row after the last one."""
    file: Path
    name: str
    """Of the piece, in the file."""
    checksum: int | None = None
    """`checksum` of the piece; None: it has none."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in files; nothing of it is read before it is asked for."""

    shape: torch.Size
    pieces: tuple[Piece, ...]
    """In order."""

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start … stop - 1."""
        found = []
        for first, end, file, name, _ in self.pieces:
            if max(first, start) < min(end, stop) or (start == stop == first):
                with safe_open(file, "pt") as opened:
                    found.append(opened.get_slice(name)[max(first, start) - first : min(end, stop) - first])
        return found[0] if len(found) == 1 else torch.cat(found)

    def full(self) -> Tensor:
        """All of it."""
        if len(self.pieces) > 1:
            return self.rows(0, self.shape[0])
        return _read(self.pieces[0])

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

    def verify(self) -> None:
        """Reads all of it; ValueError if it is not what was written."""
        for piece in self.pieces:
            if piece.checksum is not None and checksum(_read(piece)) != piece.checksum:
                raise ValueError(f"{piece.name} in {piece.file.name} is not what was written (its checksum differs)")


def _read(piece: Piece) -> Tensor:
    with safe_open(piece.file, "pt") as opened:
        return opened.get_tensor(piece.name)


def checksum(tensor: Tensor) -> int:
    """CRC-32 of a tensor's bytes: 3.4 GB/s on one core, faster than disks are."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return zlib.crc32(flat.view(torch.uint8).numpy().data) if len(flat) else 0


def save_tensors(tensors: Mapping[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file that others may read as far as the umask says (by itself safetensors makes it 0600).

    Raises:
        OSError: it cannot be written.
    """
    file.touch()
    mode = file.stat().st_mode
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata=metadata)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from error
    file.chmod(mode)


def check_shapes(
    wanted: Mapping[str, torch.Size], found: Mapping[str, Tensor | StoredTensor], where: str | None = None
) -> None:
    """Raises UserError, naming up to three tensors, if a checkpoint (the file `where`) is one of another model."""
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is not of this model" for name in found if name not in wanted]
    problems += [
        f"{name} is {tuple(found[name].shape)}, not {tuple(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name].shape != shape
    ]
    missing = [name for name in wanted if name not in found]
    if missing and all(".wider." in name for name in missing):  # `BandedLinear`
        raise UserError(
            f"the checkpoint is of an earlier t2x, which kept {missing[0]} in one weight with the channels before it",
            where=where,
            hint="go on, or sample, with the t2x that wrote it",
        )
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"the checkpoint is of another model than the recipe: {', '.join(problems[:3])}{more}",
            where=where,
            hint="sample and resume with the recipe that it was trained with",
        )
