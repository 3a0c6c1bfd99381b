"""The values that travel between the parts of t2x.

Axis letters, everywhere in the project:

    B  batch            C  latent channels     F, H, W  frames (views), height, width of a latent or an image
    T  text tokens      D  width of the network
    P  patch size       f, h, w  token grid (F, H/P, W/P)        N = f·h·w  tokens
    (pf, ph, pw)  window       L = pf·ph·pw  tokens of a window      M  windows = proxy tokens

Time t is in [0, 1]; t = 1 is pure noise. Pixels are float in [-1, 1], RGB. An image has F = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree

from t2x_core.text_types import TensorRecord, TextInput, TextTokens
from t2x_core.text_types import TextDims as TextDims


@dataclass(frozen=True)
class Bucket:
    """Samples of one shape; a batch comes from one bucket. Sizes are in pixels, `count` in samples."""

    frames: int
    """F, of a sample in pixels; 1 for images."""
    height: int
    """H, in pixels."""
    width: int
    """W, in pixels."""
    count: int = 0
    """Samples that there are of it."""
    block: int = 0
    """Samples in a row that are near each other on disk and read together; 0: they come in any order."""


VAL_STEP = -1
"""The step in the keys of validation samples: no optimizer step has it, so their noise is theirs alone."""


class SampleKey(NamedTuple):
    """Names one sample of one optimizer step, whatever the number of ranks.

    `id` is the sample's place in its bucket, `slot` its place in the *global* batch of optimizer step `step`;
    `attempt` counts roll-backs. All that is random about the sample follows from (seed, attempt, step, slot).
    """

    task: str
    bucket: int
    id: int
    step: int
    slot: int
    attempt: int = 0


class LatentShape(NamedTuple):
    """Shape of the latents of one sample."""

    channels: int
    """C."""
    frames: int
    """F', frames of the latents: fewer than those of the pixels where the codec compresses time."""
    height: int
    width: int


@dataclass(frozen=True)
class Batch(TensorRecord):
    """What a plugin's `collate` returns, and what its adapter, loss, metrics and render read.

    A batch to sample from ("conditions") is the same thing without `pixels` and `keys`. The codec makes `latents` of
    `pixels`, and `encoded_controls` of those `controls` that the task names; then `pixels` is None.
    """

    task: str
    """Name of the task in the recipe."""
    captions: tuple[str, ...]
    """One caption for each sample."""
    keys: tuple[SampleKey, ...] = ()
    """One key for each sample."""
    pixels: Tensor | None = None
    """(B, 3, F, H, W) in [-1, 1]."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """What else the task needs (cameras, frame rate …), each (B, …)."""
    controls: Mapping[str, Tensor] = field(default_factory=dict)
    """Further pixels by name (first frame, edge map, mask), each (B, 3, F, H, W) in [-1, 1]."""
    latents: Tensor | None = None
    """(B, C, F', H', W') float32, of `pixels`."""
    encoded_controls: Mapping[str, Tensor] = field(default_factory=dict)
    """Latents (B, C, F', H', W') float32 of controls, by name."""
    unencoded: Tensor | None = None
    """(M,) which samples the cache has not, if it has the others: `pixels` and those `controls` that are among
    `encoded_controls` are of these M alone, whose latents are 0 until the core has encoded them."""
    text: Mapping[str, TextInput] = field(default_factory=dict)
    """The captions as each text encoder's numbers, by the encoder's name in the recipe; the core puts them in."""
    encoded_text: Mapping[str, TextTokens] = field(default_factory=dict)
    """What text encoders make of the captions, from the cache; these are not in `text`."""
    shape: tuple[int, ...] = ()
    """(F, H, W) of the samples in pixels, whether `pixels` are there or not; () = conditions that fit any shape."""

    def __post_init__(self) -> None:
        if isinstance(self.pixels, Tensor) and not self.shape:
            object.__setattr__(self, "shape", tuple(self.pixels.shape[2:]))

    def __len__(self) -> int:
        return len(self.captions)

    def select(self, indices: list[int]) -> Batch:
        """The samples at `indices`, in that order."""

        def chosen(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: value[indices] for name, value in parts.items()}

        fresh, unencoded = indices, None
        if self.unencoded is not None:
            row = {int(sample): i for i, sample in enumerate(self.unencoded)}
            fresh = [row[i] for i in indices if i in row]
            unencoded = self.unencoded.new_tensor([place for place, i in enumerate(indices) if i in row])
        controls = {
            name: value[fresh if name in self.encoded_controls else indices] for name, value in self.controls.items()
        }
        return Batch(
            task=self.task,
            captions=tuple(self.captions[i] for i in indices),
            keys=tuple(self.keys[i] for i in indices) if self.keys else (),
            pixels=None if self.pixels is None else self.pixels[fresh],
            extra=chosen(self.extra),
            controls=controls,
            latents=None if self.latents is None else self.latents[indices],
            encoded_controls=chosen(self.encoded_controls),
            unencoded=unencoded,
            text={name: value.select(indices) for name, value in self.text.items()},
            encoded_text={name: value.select(indices) for name, value in self.encoded_text.items()},
            shape=self.shape,
        )

    def without_tensors(self) -> Batch:
        """Task, captions, keys and shape alone."""
        return Batch(self.task, self.captions, self.keys, shape=self.shape)


@dataclass(frozen=True)
class FrameAxis:
    """What the frames of a sample are to each other, where they are no clip."""

    window: int | None = None
    """Frames of a window; None: pf of the recipe's `backbone.window`."""
    circular: bool = False
    """Whether the last frame is a neighbour of the first (views around an object): shifted windows then join them."""
    frame_positions: bool = True
    """Whether the position embedding has the number of a frame (no: the conditioning has what is needed)."""


@dataclass(frozen=True)
class Conditioning(TensorRecord):
    """Inputs of the backbone besides the noised latents and the time. Each part may be absent."""

    text: Tensor | None = None
    """(B, T, Dt) text tokens, as the text encoder gives them."""
    text_mask: Tensor | None = None
    """(B, T) bool, True = valid. Every row has at least one valid token."""
    vector: Tensor | None = None
    """(B, Dv), added to the timestep embedding after a projection."""
    frames: Tensor | None = None
    """(B, F', Df), added to the tokens of a frame of the latents after a projection (camera), or (B, 1, Df), of all
    (frame rate)."""
    concat: Tensor | None = None
    """(B, Cc, F', H', W'), joined to the latents on the channel axis (first frame, rays, mask); of their shape."""
    frame_axis: FrameAxis = FrameAxis()
    """What the frames are to each other: the same for all samples of a batch."""

    def where(self, mask: Tensor, other: Conditioning) -> Conditioning:
        """For each sample `other` where `mask` (B,) is true, else this one; both have the same parts and shapes."""
        return self._combine(
            other, lambda mine, theirs: torch.where(mask.view(-1, *[1] * (mine.ndim - 1)), theirs.to(mine.dtype), mine)
        )

    def cat(self, other: Conditioning) -> Conditioning:
        """Both one behind the other on the batch axis."""
        return self._combine(other, lambda mine, theirs: torch.cat([mine, theirs.to(mine.dtype)]))

    def _combine(self, other: Conditioning, combine: Callable[[Tensor, Tensor], Tensor]) -> Conditioning:
        def part(name: str) -> Tensor | None:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is None and theirs is None:
                return None
            if mine is None or theirs is None:
                raise ValueError(f"one conditioning has {name} and the other has not: both need the same parts")
            if mine.shape[1:] != theirs.shape[1:]:
                raise ValueError(
                    f"{name} is {tuple(mine.shape)} in one conditioning and {tuple(theirs.shape)} in the other"
                )
            return combine(mine, theirs)

        parts = {f.name: part(f.name) for f in fields(ConditioningDims)}
        return Conditioning(**parts, text_mask=part("text_mask"), frame_axis=self.frame_axis)


@dataclass(frozen=True)
class ConditioningDims:
    """Sizes of the parts of a `Conditioning`; 0 = the task does not use that part."""

    text: int = 0
    """Dt, width of a text token."""
    vector: int = 0
    """Dv, width of the vector."""
    frames: int = 0
    """Df, width of a per-frame embedding."""
    concat: int = 0
    """Cc, channels joined to the latents."""


@dataclass(frozen=True)
class Variation:
    """What is random about one turn of a sample."""

    key: SampleKey
    """Which sample it is, and in which turn."""
    choices: tuple[Any, ...] = ()
    """What its pixels depend on besides the sample: where it is cropped, whether it is flipped, its first frame.
    Numbers, texts, booleans, and tuples of these; () if the pixels are the same each time."""
    caption: str | None = None
    """The caption of this turn; None: the only one, which `Source.load` finds."""


@dataclass(frozen=True)
class Sample:
    """One item of a source."""

    key: SampleKey
    """The key that it was read by."""
    pixels: Tensor | None
    """(3, F, H, W) in [-1, 1]; None if there are latents."""
    caption: str
    """What it shows; "" if nobody says."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """What else the task needs, without the batch axis."""
    controls: Mapping[str, Tensor] = field(default_factory=dict)
    """Further pixels by name, each (3, F, H, W) in [-1, 1]."""
    latents: Tensor | None = None
    """(C, F', H', W') from the cache."""
    encoded_controls: Mapping[str, Tensor] = field(default_factory=dict)
    """Latents (C, F', H', W') of controls, by name, from the cache."""
    shape: tuple[int, ...] = ()
    """(F, H, W) in pixels, whether there are pixels or not."""

    def __post_init__(self) -> None:
        if isinstance(self.pixels, Tensor) and not self.shape:
            object.__setattr__(self, "shape", tuple(self.pixels.shape[1:]))


@dataclass(frozen=True)
class Noised:
    """Latents on their way between data (t = 0) and noise (t = 1); all (B, C, F, H, W)."""

    latents: Tensor
    """x_t = (1 - t)·x₀ + t·ε."""
    clean: Tensor
    """x₀."""
    noise: Tensor
    """ε."""
    t: Tensor
    """(B,) in [0, 1]."""
    min_t: float = 0.0
    """Smallest time that x_t - x₀ is divided by; above 0 where the network predicts x₀."""
    velocity_weight: Tensor | None = None
    """(B,) squared error of what the path calls velocity, in squared errors of ε - x₀; None: 1, on rectified flow."""

    @property
    def velocity(self) -> Tensor:
        """What the velocity is trained to be: ε - x₀, the derivative of x_t by t; below `min_t`, t/min_t of it."""
        if not self.min_t:
            return self.noise - self.clean
        share = self.t / self.divisor
        return share.view(-1, *[1] * (self.clean.ndim - 1)) * (self.noise - self.clean)

    @property
    def divisor(self) -> Tensor:
        """(B,) by which x_t - x₀ is divided to make a velocity: t, and `min_t` at least."""
        return self.t.clamp(min=self.min_t)


@dataclass(frozen=True)
class RenderedSamples:
    """Samples as a person looks at them: one still image, an animation, or both."""

    frames: Tensor
    """(frames, height, width, 3) uint8; one frame is a still image."""
    fps: float = 8.0
    """Frames per second of an animation."""
    still: Tensor | None = None
    """(height, width, 3) uint8: an image of the same samples, for what an animation does not show at one glance."""


for _record in (Batch, Conditioning):
    _pytree.register_dataclass(_record)
