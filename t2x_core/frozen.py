"""Parts that are referenced and not stored: codecs and frozen text encoders.

They stand outside of the tree of modules that Lightning moves, wraps and switches to train mode, and in no checkpoint;
a checkpoint names them by place and content.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from t2x_core.cache.cache import KnownEncoder
from t2x_core.cache.storage import StorageType, round_to
from t2x_core.calls import Calls
from t2x_core.data.text import Tokenizer
from t2x_core.errors import UserError
from t2x_core.interfaces import LatentCodec, TextEncoder
from t2x_core.types import Batch, Bucket, LatentShape, TextDims, TextInput, TextTokens

log = logging.getLogger("t2x")
Part = TypeVar("Part", bound=nn.Module)


def tensor_hash(tensors: Mapping[str, Tensor], settings: str = "") -> str:
    """SHA-256 of names, types, shapes and content."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    digest.update(settings.encode())
    return digest.hexdigest()


class Frozen(Generic[Part]):
    """A part in eval mode, without gradients, that goes to the device where it is used."""

    def __init__(self, part: Part) -> None:
        self._part: Part | None = part.eval().requires_grad_(False)
        places = {tensor.device for tensor in (*part.parameters(), *part.buffers())}
        self._device: torch.device | None = places.pop() if len(places) == 1 else None
        self._hash: str | None = None

    @property
    def part(self) -> Part:
        """The part itself."""
        assert self._part is not None
        return self._part

    @property
    def loaded(self) -> bool:
        """Whether it is in memory."""
        return self._part is not None

    def on(self, device: torch.device) -> Part:
        """The part, on this device, and in eval mode."""
        if device != self._device:
            self.part.to(device)
            self._device = device
        return self.part

    def place(self, device: torch.device) -> torch.device:
        """Where it works for what is on `device`: there, unless it stays on a device of its own."""
        own = getattr(self.part, "runs_on", "")
        return torch.device(own) if own else device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights; float32 if it has none."""
        return next((p.dtype for p in self.part.parameters() if p.is_floating_point()), torch.float32)

    def record(self) -> dict[str, str]:
        """What a checkpoint says of it: "origin", and "sha256" of its tensors ("" if it has none)."""
        if self._hash is None:
            state, settings = self.part.state_dict(), str(getattr(self.part, "settings", ""))
            self._hash = tensor_hash(dict(plain_tensors(state)), settings) if state or settings else ""
        return {"origin": str(getattr(self.part, "origin", "")), "sha256": self._hash}


def plain_tensors(named: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors themselves, and what those that are made of others (weights in 8 bits) hold."""
    for name, tensor in named.items():
        if not hasattr(tensor, "__tensor_flatten__"):
            yield name, tensor
            continue
        inner = {f"{name}.{part}": getattr(tensor, part) for part in tensor.__tensor_flatten__()[0]}
        yield from plain_tensors({part: value for part, value in inner.items() if value is not None})


def bytes_of(part: nn.Module) -> int:
    """Bytes of a part's parameters and buffers."""
    unique = {id(t): t for t in (*part.parameters(), *part.buffers())}
    return sum(tensor.nbytes for _, tensor in plain_tensors({str(key): t for key, t in unique.items()}))


class LaterEncoder(Frozen[TextEncoder]):
    """A frozen text encoder that is loaded when it is first needed: its texts are in the cache.

    Args:
        known: what was found out about it when it was loaded before.
    """

    def __init__(self, build: Callable[[], TextEncoder], known: KnownEncoder, name: str) -> None:
        self._build, self.known, self.name = build, known, name
        self._part, self._device, self._hash = None, None, known.sha256

    @property
    def part(self) -> TextEncoder:
        if self._part is None:
            log.info("text_encoders.%s is loaded: a text is not in the cache", self.name)
            with (
                _disable_current_modes(),
                torch.random.fork_rng(devices=[]),
            ):  # weights have content in an estimate, too
                self._part = self._build().eval().requires_grad_(False)
        return self._part

    @property
    def dims(self) -> TextDims:
        """Widths of what it returns."""
        return self.known.dims

    def record(self) -> dict[str, str]:
        return {"origin": self.known.origin, "sha256": self.known.sha256}


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

    def fill(
        self,
        there: Tensor | None,
        pixels: Tensor | None,
        *,
        rows: Tensor | None,
        separate: bool,
        rounding: StorageType | None,
    ) -> Tensor | None:
        """Latents float32 of all samples of a batch: those that are `there`, with those of `pixels` at `rows` (M,).

        `rounding`: as the cache keeps them.
        """
        if pixels is None or not len(pixels):
            return None if there is None else there.float()
        latents = self.encode(pixels, separate)
        if rounding is not None:
            latents = round_to(latents, rounding)
        return latents if there is None or rows is None else there.float().index_copy(0, rows, latents)

    def decode(self, latents: Tensor, separate: bool, preview: bool = False) -> Tensor:
        """Latents (B, C, F', H', W') → pixels (B, 3, F, H, W); `preview`: by the codec's cheaper way."""
        part = self.on(latents.device)
        with torch.no_grad():
            return self._call(part.preview if preview else part.decode, latents, separate)

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


def tokens_of(encoder: Frozen[TextEncoder], inputs: TextInput, device: torch.device) -> TextTokens:
    """What a frozen encoder makes of texts, on `device`: without autocast, in the precision of its own weights, so that
    it is what the cache holds, whatever the precision of training."""
    place = encoder.place(device)
    part = encoder.on(place)
    with torch.no_grad(), torch.autocast(place.type, enabled=False):
        return part(inputs.to(place)).to(device)


def encode_texts(
    encoder: Frozen[TextEncoder], batch: Batch, name: str, device: torch.device, calls: Calls
) -> TextTokens:
    """What a frozen encoder makes of the captions of a batch, on `device`; in training each different one once.

    A batch to sample from is encoded as it is, so that an image does not depend on what stands beside it.
    """
    captions = list(dict.fromkeys(batch.captions)) if batch.keys else list(batch.captions)
    inputs = batch.text.get(name)
    if inputs is None:  # the encoder was not loaded where batches are made
        inputs = Tokenizer({name: encoder.part}, calls).short(captions)[name].to(device)
    elif len(captions) < len(batch.captions):
        inputs = inputs.select([batch.captions.index(caption) for caption in captions])
    tokens = tokens_of(encoder, inputs, device)
    if len(captions) == len(batch.captions):
        return tokens
    return tokens.select([captions.index(caption) for caption in batch.captions])


def check_records(found: Any, parts: Mapping[str, Mapping[str, str]], where: str) -> None:
    """UserError if a part is not the one that a checkpoint (`where`) names.

    Args:
        found: path in the recipe → what the checkpoint says of it (`Frozen.record`), as it was read.
        parts: path → the same of the part that is here.
    """
    if not _are_records(found):
        hint = "it was written by another version of t2x, or changed since; start anew from it: backbone.weights"
        raise UserError(f"{where} does not say which codec and frozen text encoders it was trained with", hint=hint)
    for path, saved in found.items():
        origin = f" from {saved['origin']}" if saved["origin"] else ""
        if path not in parts:
            raise UserError(f"{where} was trained with a frozen {path}{origin}, which is not here")
        own = parts[path]
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
