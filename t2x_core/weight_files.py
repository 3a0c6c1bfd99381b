"""Weights from outside a run: safetensors, PyTorch files, or the authors' released network, as tensors of our names.

Nothing is read with pickle's freedom: of a PyTorch file only tensors and plain containers are accepted.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from t2x_core.backbone.released_layout import ReleasedParameter, is_released, released_parameters
from t2x_core.errors import UserError
from t2x_core.plain_files import read_json, sha256_of
from t2x_core.runs import PYTORCH
from t2x_core.tensor_files import Piece, StoredTensor

INDEX = ".safetensors.index.json"
"""End of the name of a file that says which of several safetensors files holds what."""
WRAPPERS = ("state_dict", "model", "module", "ema")
"""Keys under which programs put the weights in a PyTorch file."""


class AnyTensor(Protocol):
    """A tensor that may not have been read yet."""

    @property
    def shape(self) -> torch.Size: ...

    def full(self) -> Tensor:
        """All of it."""


@dataclass(frozen=True)
class MadeTensor:
    """A tensor that is made of others when it is asked for."""

    shape: torch.Size
    make: Callable[[], Tensor]

    def full(self) -> Tensor:
        return self.make()


@dataclass(frozen=True)
class ForeignWeights:
    """What a file or a folder from outside holds."""

    tensors: Mapping[str, AnyTensor]
    """By the names that they would have in our module: "backbone.blocks.0.…"."""
    unused: Mapping[str, AnyTensor]
    """What is in it and has no name of ours."""
    released: bool
    """Whether it is in the layout of the authors' release."""


def read_foreign(place: Path, out_channels: int = 0) -> ForeignWeights:
    """The weights in a file, or in all safetensors files of a folder; safetensors are only opened, not read.

    Names may have "model." or "module." in front; without "backbone." they are taken for those of the backbone.

    Args:
        out_channels: of the head of our network; of a released one only so many channels are taken.

    Raises:
        UserError: it cannot be read, holds no tensors, or is a file that could run code.
    """
    files = _files_of(place) if place.is_dir() else [place]
    found: dict[str, AnyTensor] = {}
    for file in files:
        found |= _pytorch(file) if file.suffix.lower() in PYTORCH else stored_tensors(file)[0]
    if not found:
        raise UserError(
            f"there are no weights in {place}", hint="name a .safetensors file, or a folder that holds some"
        )
    found = {_plain(name): tensor for name, tensor in found.items()}
    if all(name.startswith("model.") for name in found):
        found = {name.removeprefix("model."): tensor for name, tensor in found.items()}
    if is_released(found):
        return _released(found, place, out_channels)
    ours = ("backbone.", "adapters.", "text_encoders.", "losses.")
    prefix = "" if any(name.startswith(ours) for name in found) else "backbone."
    return ForeignWeights({f"{prefix}{name}": tensor for name, tensor in found.items()}, {}, released=False)


def _files_of(folder: Path) -> list[Path]:
    """The safetensors files that a folder's index lists, as transformers and diffusers write it; else all there are."""
    indices = sorted(folder.glob(f"*{INDEX}"))
    if not indices:
        return sorted(folder.glob("*.safetensors"))
    try:
        names = {str(name) for index in indices for name in read_json(index)["weight_map"].values()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{indices[0]} is damaged: {error}") from error
    if outside := next((name for name in sorted(names) if Path(name).name != name), None):
        raise UserError(f'{indices[0]} names "{outside}", which is outside of its folder')
    if missing := next((name for name in sorted(names) if not os.path.isfile(folder / name)), None):
        raise UserError(f"{folder} is not whole: its index lists {missing}, which is not there")
    return [folder / name for name in sorted(names)]


def stored_tensors(file: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Name → tensor, and the metadata, of a safetensors file; UserError if it is damaged."""
    found = {}
    try:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (it is no mapping)
                shape = torch.Size(opened.get_slice(name).get_shape())
                found[name] = StoredTensor(shape, (Piece(0, shape[0] if shape else 1, file, name),))
            return found, opened.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} is damaged: {error}") from error


def _pytorch(file: Path) -> dict[str, AnyTensor]:
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch and pickle raise errors of many classes at damaged files
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{file} cannot be read: it is damaged, or holds more than tensors ({first[:200]})",
            hint="save its tensors alone, as safetensors if you can",
        ) from error
    for _ in range(3):
        inside = next((content[k] for k in WRAPPERS if isinstance(content, dict) and _holds(content.get(k))), None)
        if inside is None:
            break
        content = inside
    if not isinstance(content, dict):
        return {}
    return {str(n): MadeTensor(t.shape, lambda t=t: t) for n, t in content.items() if isinstance(t, Tensor)}  # type: ignore[misc]


def _holds(value: Any) -> bool:
    """Whether it is a mapping with tensors in it, or in a mapping in it."""
    return isinstance(value, dict) and any(isinstance(v, Tensor) or _holds(v) for v in value.values())


def _plain(name: str) -> str:
    """Without what wrappers (torch.compile, DDP) put into names."""
    return re.sub(r"(^|\.)(?:(?:_orig_mod|module)\.)+", r"\1", name)


def _released(found: Mapping[str, AnyTensor], place: Path, out_channels: int) -> ForeignWeights:
    try:
        made = released_parameters({name: tuple(tensor.shape) for name, tensor in found.items()}, out_channels)
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{place} is not the whole released network: it lacks {error}") from error

    def one(parameter: ReleasedParameter) -> MadeTensor:
        parts = [found[part] for part in parameter.parts]
        return MadeTensor(torch.Size(parameter.shape), lambda: parameter.make([part.full() for part in parts]))

    used = {part for parameter in made.values() for part in parameter.parts}
    rest = {name: tensor for name, tensor in found.items() if name not in used}
    return ForeignWeights({f"backbone.{name}": one(p) for name, p in made.items()}, rest, released=True)


def weights_hash(place: Path) -> str:
    """SHA-256 of a file; of a folder, of the names and hashes of its files."""
    if place.is_file():
        return sha256_of(place)
    files = sorted(file for file in place.iterdir() if file.suffix in (".json", ".yaml", ".safetensors"))
    return hashlib.sha256("".join(f"{file.name} {sha256_of(file)}\n" for file in files).encode()).hexdigest()
