"""What the author of a task, a codec or a text encoder implements.

Every class here is abstract through and through: implement all of it, override nothing else. (Only `Source.name` and
`TaskPlugin.separate_frames` may be left as they are.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import lightning as L
from torch import Tensor, nn

from t2x_core.quarantine import Quarantine
from t2x_core.recipe import ComponentConfig, TaskConfig
from t2x_core.types import Batch, Bucket, Conditioning, ConditioningDims, Noised, RenderedSamples, Sample, SampleKey

ConfigT = TypeVar("ConfigT", bound=TaskConfig)


class TextEncoder(nn.Module, ABC):
    """Text → tokens. Trained along if its parameters require gradients, else frozen and never saved."""

    dim: int
    """Dt, width of a token."""
    longest: int | None = None
    """The largest `length` of a text that is read to its end; None: any."""
    longest_setting: str = ""
    """The recipe's key for `longest`."""

    def length(self, text: str) -> int:
        """Words or tokens of a text, for the line on captions that are cut; called only if there is a `longest`."""
        return len(text.split())

    @abstractmethod
    def forward(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, Dt) and their mask (B, T) bool, True = valid; at least one valid token a row, "" included."""


class LatentCodec(nn.Module, ABC):
    """Pixels ↔ latents. Frozen."""

    channels: int
    """C."""
    spatial_factor: int
    """Pixels of height and width for one latent cell."""

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, F, H, W) in [-1, 1] → latents (B, C, F', H/s, W/s), scaled to about unit variance."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, F', H/s, W/s) → pixels (B, 3, F, H, W), about [-1, 1] (not clamped)."""

    @abstractmethod
    def latent_shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        """(C, F', H/s, W/s) of a sample of this shape."""


class ConditioningAdapter(nn.Module, ABC):
    """Turns a batch of one task into what the backbone is told."""

    dims: ConditioningDims
    """Sizes of what `forward` returns; the backbone is built to fit."""

    @abstractmethod
    def forward(self, batch: Batch, text_encoder: TextEncoder | None) -> Conditioning:
        """The conditioning of a batch. The text encoder is lent, never owned; None if the recipe has none."""

    @abstractmethod
    def null(self, conditioning: Conditioning) -> Conditioning:
        """The unconditional one, of the same parts and shapes (for condition dropout and guidance)."""


class Loss(Protocol):
    """A training loss: a function, or an object with `__call__`."""

    def __call__(self, velocity: Tensor, noised: Noised, batch: Batch) -> Tensor:
        """From the predicted velocity (B, C, F, H, W), one value per sample (B,), unreduced."""


class Source(ABC):
    """Samples by key, as a map-style dataset; read in worker processes, so it must pickle."""

    @abstractmethod
    def buckets(self) -> Sequence[Bucket]:
        """The shapes there are, each with its number of samples; a key's `bucket` is an index into this."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples in all buckets."""

    @abstractmethod
    def __getitem__(self, key: SampleKey) -> Sample:
        """The sample `key.id` (0 … count - 1) of bucket `key.bucket`.

        Anything random about it comes from `keyed.generator(seed, "<what>", key.attempt, key.step, key.slot)`.
        """

    @abstractmethod
    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Samples of one bucket → a batch (`t2x_core.data.stack` does it for plain samples)."""

    def name(self, key: SampleKey) -> str:
        """What the user calls the sample: its file, as it is called in messages; "" if it is made on the fly.

        It is what a loader that hangs is said to read, and by it a resumed run knows whether the samples are the same.
        """
        return ""


@dataclass(frozen=True)
class DataContext:
    """What the core tells a plugin that builds its data."""

    seed: int
    """The recipe's seed."""
    pixel_multiple: int
    """Height and width of a sample must be multiples of this (codec factor × patch), in pixels."""
    global_batch: int = 1
    """Samples of one optimizer step of the task. A bucket with fewer would repeat samples within a step."""
    quarantine: Quarantine = field(default_factory=Quarantine)
    """Where a file that cannot be read is named."""


class TaskDataModule(L.LightningDataModule, ABC):
    """A task's data. `prepare_data` and `setup` are Lightning's; the core makes the loaders.

    Both are called more than once, and in every process, before training and by the Trainer: what they find is kept.
    What is wrong with the data is a UserError of theirs.
    """

    @abstractmethod
    def train_source(self) -> Source:
        """What is trained on; called after `setup`."""

    @abstractmethod
    def val_source(self) -> Source:
        """The fixed set of held-out samples for the validation loss; called after `setup`."""

    @abstractmethod
    def describe(self) -> Sequence[str]:
        """Lines for the log on what there is to train on: how much, of which shapes, what was left out and why.

        Called after `setup`.
        """

    @abstractmethod
    def val_conditions(self, count: int) -> Batch:
        """`count` held-out conditions to sample from while training, always the same; `TaskPlugin.score` reads them."""

    def captions(self) -> Iterable[str]:
        """All captions, if they come from files, so that those longer than the text encoder reads are counted."""
        return ()


class TaskPlugin(ABC, Generic[ConfigT]):
    """A task: what is registered through the hook `t2x_register_tasks`."""

    name: str
    """The task's name in a recipe, and the name of its entry point."""
    config_class: type[ConfigT]
    """Frozen dataclass (a `TaskConfig`) that the task's block of the recipe is checked against."""
    separate_frames: bool = False
    """Whether the codec sees each frame by itself, as a picture: views of an object, and no clip."""

    @abstractmethod
    def data_module(self, config: ConfigT, context: DataContext) -> TaskDataModule:
        """The task's data."""

    @abstractmethod
    def adapter(self, config: ConfigT, text_dim: int) -> ConditioningAdapter:
        """The task's conditioning; `text_dim` is the width of the text encoder's tokens, 0 if the recipe has none."""

    @abstractmethod
    def loss(self, config: ConfigT) -> Loss:
        """The task's loss."""

    @abstractmethod
    def bucket(self, config: ConfigT) -> Bucket:
        """The shape of a sample when nobody asks for another (`config.sampling`, see `conditions`)."""

    @abstractmethod
    def conditions(self, prompts: Sequence[str], config: ConfigT) -> Batch:
        """Prompts that somebody typed → conditions to sample from.

        What else can be asked for is a block `sampling` of the config: `t2x sample RUN "a prompt" --set key=value` and
        `T2XPipeline(…, sampling={key: value})` change its keys.
        """

    @abstractmethod
    def score(self, samples: Tensor, conditions: Batch) -> dict[str, float] | None:
        """How well samples (B, 3, F, H, W) in [-1, 1] match their conditions, name → value; None = cannot tell."""

    @abstractmethod
    def render(self, samples: Tensor, conditions: Batch) -> RenderedSamples:
        """Samples (B, 3, F, H, W) in [-1, 1] as a person looks at them, for files and TensorBoard alike."""


@dataclass(frozen=True)
class Component:
    """A codec or a text encoder that a recipe can name: what `t2x_register_codecs` and `…_text_encoders` return."""

    name: str
    """Its name in a recipe, and, from a plugin, the name of the entry point."""
    config_class: type[ComponentConfig]
    """Frozen dataclass (a `CodecConfig` or `TextEncoderConfig`) that its block of the recipe is checked against."""
    build: Callable[[Any], nn.Module]
    """The config → a `LatentCodec` or a `TextEncoder`."""
