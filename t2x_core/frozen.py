"""Parts that are referenced and not stored: codecs and frozen text encoders.

They stand outside of the tree of modules that Lightning moves, wraps and switches to train mode, and in no checkpoint;
a checkpoint names them by place and content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from t2x_core.errors import UserError
from t2x_core.interfaces import LatentCodec
from t2x_core.types import Bucket, LatentShape

Part = TypeVar("Part", bound=nn.Module)


class Frozen(Generic[Part]):
    """A part in eval mode, without gradients, that goes to the device where it is used."""

    def __init__(self, part: Part) -> None:
        self.part = part.eval().requires_grad_(False)
        self._device: torch.device | None = None
        self._hash: str | None = None

    def on(self, device: torch.device) -> Part:
        """The part, on this device, and in eval mode."""
        if device != self._device:
            self.part.to(device)
            self._device = device
        return self.part

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights; float32 if it has none."""
        return next((p.dtype for p in self.part.parameters() if p.is_floating_point()), torch.float32)

    def record(self) -> dict[str, str]:
        """What a checkpoint says of it: "origin", and "sha256" of its tensors ("" if it has none)."""
        if self._hash is None:
            state = self.part.state_dict()
            digest = hashlib.sha256()
            for name in sorted(state):
                tensor = state[name].detach().cpu().contiguous()
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
                digest.update(
                    tensor.view(torch.uint8).numpy() if tensor.ndim else tensor.reshape(1).view(torch.uint8).numpy()
                )
            self._hash = digest.hexdigest() if state else ""
        return {"origin": str(getattr(self.part, "origin", "")), "sha256": self._hash}


class Codec(Frozen[LatentCodec]):
    """How the core calls a latent codec: without autocast, in the codec's own dtype; what comes back is float32.

    `separate`: each frame by itself, as an image.
    """

    def encode(self, pixels: Tensor, separate: bool) -> Tensor:
        """Pixels (B, 3, F, H, W) → latents (B, C, F', H', W'); ValueError if they are not of the promised shape."""
        shape = self.latent_shape(Bucket(*pixels.shape[2:]), separate)
        with torch.no_grad():
            latents = self._call(self.on(pixels.device).encode, pixels, separate)
        if latents.shape != (len(pixels), *shape):
            wanted = (len(pixels), *shape)
            raise ValueError(f"latents are {tuple(latents.shape)}; channels, factors and latent_frames say {wanted}")
        return latents

    def decode(self, latents: Tensor, separate: bool) -> Tensor:
        """Latents (B, C, F', H', W') → pixels (B, 3, F, H, W)."""
        with torch.no_grad():
            return self._call(self.on(latents.device).decode, latents, separate)

    def latent_shape(self, bucket: Bucket, separate: bool) -> LatentShape:
        """Of the latents of a sample of this shape; UserError if the codec cannot have one."""
        codec = self.part
        s = codec.spatial_factor
        if bucket.height % s or bucket.width % s:
            raise UserError(f"{bucket.height}×{bucket.width} pixels do not divide by the codec's factor {s}")
        frames = bucket.frames if separate else codec.latent_frames(bucket.frames)
        return LatentShape(codec.channels, frames, bucket.height // s, bucket.width // s)

    def _call(self, code: object, x: Tensor, separate: bool) -> Tensor:
        assert callable(code)
        with torch.autocast(x.device.type, enabled=False):
            if not separate:
                return code(x.to(self.dtype)).float()
            one = x.transpose(1, 2).flatten(0, 1).unsqueeze(2)  # (B·F, C, 1, H, W)
            coded = code(one.to(self.dtype)).float()
            return coded.squeeze(2).unflatten(0, (len(x), -1)).transpose(1, 2)


def check_records(found: Any, parts: Mapping[str, Frozen[Any]], where: str) -> None:
    """UserError if a part is not the one that a checkpoint (`where`) names.

    Args:
        found: path in the recipe → what the checkpoint says of it (`Frozen.record`), as it was read.
        parts: path → the part that is here.
    """
    if not _are_records(found):
        hint = "it was written by another version of t2x, or changed since; start anew, from its weights: init_from"
        raise UserError(f"{where} does not say which codec and frozen text encoders it was trained with", hint=hint)
    for path, saved in found.items():
        origin = f" from {saved['origin']}" if saved["origin"] else ""
        if path not in parts:
            raise UserError(f"{where} was trained with a frozen {path}{origin}, which is not here")
        own = parts[path].record()
        if own["sha256"] != saved["sha256"]:
            here = f" from {own['origin']}" if own["origin"] else ""
            raise UserError(
                f"the weights of {path}{here} are not those that the run was trained with{origin} "
                f"(sha256 {own['sha256'][:12] or 'of nothing'}, not {saved['sha256'][:12] or 'of nothing'})",
                where=where,
                hint="put the file back that it was trained with",
            )
    if unknown := sorted(parts.keys() - found.keys()):
        raise UserError(f"{where} was not trained with a frozen {', '.join(unknown)}, which the recipe names")


def _are_records(found: Any) -> bool:
    """Whether this is what `Frozen.record` makes, by path."""
    return isinstance(found, Mapping) and all(
        isinstance(record, Mapping) and all(isinstance(record.get(key), str) for key in ("origin", "sha256"))
        for record in found.values()
    )
