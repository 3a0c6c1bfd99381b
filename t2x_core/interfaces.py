"""What the author of a task, a data source, a codec or a text encoder implements.

A method that is abstract has to be written; any other has a default that its docstring names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

import lightning as L
from torch import Tensor, nn

from t2x_core.errors import UserError
from t2x_core.inventory import Inventory
from t2x_core.losses import velocity_error
from t2x_core.metric import MeanScore, Metric
from t2x_core.quarantine import Quarantine
from t2x_core.recipe import ComponentConfig, SourceConfig, SourcedTaskConfig, TaskConfig
from t2x_core.rendering import caption_grid
from t2x_core.source import Source, largest
from t2x_core.types import (
    Batch,
    Bucket,
    Conditioning,
    ConditioningDims,
    LatentShape,
    Noised,
    RenderedSamples,
    SampleKey,
    TextDims,
    TextInput,
    TextTokens,
)

ConfigT = TypeVar("ConfigT", bound=TaskConfig)
SourceConfigT = TypeVar("SourceConfigT", bound=SourceConfig)
SourcedConfigT = TypeVar("SourcedConfigT", bound=SourcedTaskConfig)


class TextEncoder(nn.Module, ABC):
    """Text → tokens.

    It trains along, and is saved, if a parameter of it requires a gradient as it is built. Else it is frozen: in eval
    mode, never saved, and named in the checkpoints by `origin` and by a hash of its weights.
    """

    dims: TextDims
    """Widths of what `forward` returns."""
    origin: str = ""
    """Where pretrained weights came from: a file, or a name on a hub. For messages."""
    settings: str = ""
    """What its output depends on besides its weights and its block of the recipe (config.json, say), for its hash."""
    runs_on: str = ""
    """Device of a frozen one, "cpu" or "cuda:1"; "": the one that trains."""
    longest: int | None = None
    """The largest `length` of a text that is read to its end; None: any."""
    longest_setting: str = ""
    """The key of its block of the recipe that sets `longest`."""

    def length(self, text: str) -> int:
        """Words or tokens of a text, for the line on captions that are cut; called only if there is a `longest`."""
        return len(text.split())

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> TextInput:
        """Texts as numbers, padded on the right, with at least one valid token each, "" included.

        Runs in the loader's processes, on a copy of the encoder that has no parameters, buffers or submodules.
        """

    @abstractmethod
    def forward(self, text: TextInput) -> TextTokens:
        """The tokens of a batch of texts. Padding may be shorter than `tokenize` made it."""


class LatentCodec(nn.Module, ABC):
    """Pixels ↔ latents. Frozen.

    The core calls it in eval mode, without autocast, in the dtype of its own weights, and makes float32 of what it
    returns. A codec that needs much memory works in chunks of its own.
    """

    channels: int
    """C."""
    spatial_factor: int
    """Pixels of height and width for one latent cell."""
    frame_factor: int = 1
    """Frames for one frame of the latents, the first left out, which stands for itself; 1 = time is not compressed."""
    origin: str = ""
    """Where pretrained weights came from: a file, or a name on a hub. For messages."""
    settings: str = ""
    """What its output depends on besides its weights and its block of the recipe (config.json, say), for its hash."""

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, F, H, W) in [-1, 1] → latents (B, C, F', H/s, W/s), scaled to about unit variance."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, F', H/s, W/s) → pixels (B, 3, F, H, W), about [-1, 1] (not clamped)."""

    def preview(self, latents: Tensor) -> Tensor:
        """As `decode`, and cheaper if the codec has a way to: for images while training."""
        return self.decode(latents)

    def save_memory(self) -> bool:
        """Takes less memory from now on, more slowly: in tiles, say; called where a GPU has too little. False, the
        default: it cannot (or does so already)."""
        return False

    def latent_frames(self, frames: int) -> int:
        """F' of F frames: 1 + (F - 1) / `frame_factor`; UserError if that is not whole."""
        if (frames - 1) % self.frame_factor:
            below = frames - (frames - 1) % self.frame_factor
            raise UserError(
                f"{frames} frames do not fit the codec, which makes one of {self.frame_factor} after the first; "
                f"{below} and {below + self.frame_factor} do"
            )
        return 1 + (frames - 1) // self.frame_factor


class ConditioningAdapter(nn.Module, ABC):
    """Turns a batch of one task into what the backbone is conditioned on."""

    dims: ConditioningDims
    """Sizes of what `forward` returns; the backbone is built to fit."""

    @abstractmethod
    def forward(self, batch: Batch, text: Mapping[str, TextTokens], latent_shape: LatentShape) -> Conditioning:
        """The conditioning of a batch.

        Args:
            batch: without pixels; with `encoded_controls`, if the task names some.
            text: what each text encoder of the recipe makes of the captions, by its name there.
            latent_shape: of one sample: `frames` has F' entries or one, `concat` is of exactly this shape.
        """

    def null(self, conditioning: Conditioning) -> Conditioning | None:
        """The unconditional one, of the same parts and shapes (for condition dropout and guidance).

        None, the default: what `forward` makes of the same batch with the empty prompt.
        """
        return None


class Loss(Protocol):
    """A training loss: a function, or an `nn.Module`, whose parameters are then trained, saved and averaged.

    It may have two attributes. `capture`: numbers of blocks of the backbone (0 = the first) whose tokens it wants; it
    is then called with `hidden=`, block → tokens (B, N, D) after it, row by row of the token grid. `weights`: name →
    factor of the values that it returns by name (1 for others).
    """

    def __call__(self, velocity: Tensor, noised: Noised, batch: Batch) -> Tensor | Mapping[str, Tensor]:
        """From the predicted velocity (B, C, F', H', W'), one value per sample (B,), unreduced; or several by name."""


@dataclass(frozen=True)
class DataContext:
    """What a task gets to build its data."""

    seed: int
    """The recipe's seed."""
    pixel_multiple: int
    """Height and width of a sample must be multiples of this (codec factor × patch), in pixels."""
    task: str = ""
    """Name of the task that the data is for."""
    frame_factor: int = 1
    """Frames of a sample, less one, must be a multiple of this (1 where the codec sees each frame by itself)."""
    global_batch: int = 1
    """Samples of one optimizer step of the task. A bucket with fewer would repeat samples within a step."""
    quarantine: Quarantine = field(default_factory=Quarantine)
    """Where a file that cannot be read is named."""


@dataclass(frozen=True)
class ModelContext:
    """What a task gets to build its adapter."""

    text: Mapping[str, TextDims]
    """Name of each text encoder in the recipe → the widths of what it gives."""
    latent_channels: int
    """C, channels of the latents, and so of each encoded control."""


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

    def describe(self) -> Sequence[str]:
        """Lines for the log on what there is to train on: how much, of which shapes, what was left out and why.

        Called after `setup`. The default counts samples by bucket.
        """
        shapes = [f"{b.count} of {b.frames}×{b.height}×{b.width}" for b in self.train_source().buckets() if b.count]
        more = [f"{len(shapes) - 8} more buckets"] if len(shapes) > 8 else []
        return [f"samples: {', '.join([*shapes[:8], *more])}; {len(self.val_source())} held out"]

    def val_conditions(self, count: int) -> Batch:
        """`count` held-out conditions to sample from while training, always the same; `Task.metrics` sees them.

        The default: the first validation samples of the largest bucket, over again if there are fewer, without their
        pixels.
        """
        source = self.val_source()
        index = largest(source.buckets())
        there = source.buckets()[index].count
        keys = [SampleKey("", index, i % there, -1, i) for i in range(count)]
        return replace(source.collate([source[key] for key in keys]), pixels=None, keys=())

    def inventory(self) -> Inventory | None:
        """All of its files, for `t2x data check`: also those that training leaves out. The default, None: it has none.

        It decodes none of them, and what is wrong with one does not end it; UserError: there is nothing to look at.
        """
        return None

    def captions(self) -> Iterable[str]:
        """All captions, if they come from files, so that those longer than the text encoder reads are counted."""
        return ()


class DataSource(ABC, Generic[SourceConfigT]):
    """Data that a recipe names for a task, bound to its settings: `DataSource(config)`. Registered as
    `Component(name, config_class, TheSource)`."""

    def __init__(self, config: SourceConfigT) -> None:
        self.config = config

    @abstractmethod
    def data_module(self, context: DataContext) -> TaskDataModule:
        """The data. The key of a UserError from it is one of the source's own block."""

    def score(self, samples: Tensor, conditions: Batch) -> Mapping[str, Tensor] | None:
        """As `Task.score`, for a source that knows what its samples look like; None, the default: unknown."""
        return None


class Task(ABC, Generic[ConfigT]):
    """A task, bound to its settings: `Task(config)`. Registered as `Component(name, config_class, TheTask)`."""

    name: str = ""
    """The task's name in the recipe; the core sets it."""
    separate_frames: bool = False
    """Whether the codec sees each frame by itself, as an image: views of an object, and no video."""
    encoded_controls: Sequence[str] = ()
    """Names of the samples' controls that the adapter wants as latents."""

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    @abstractmethod
    def data_module(self, context: DataContext) -> TaskDataModule:
        """The task's data."""

    @abstractmethod
    def adapter(self, context: ModelContext) -> ConditioningAdapter:
        """The task's conditioning (`t2x_core.conditioning.TextConditioning` for captions)."""

    def loss(self) -> Loss:
        """The task's loss; by default the squared error of the velocity."""
        return velocity_error

    def bucket(self) -> Bucket | None:
        """The shape of a sample when nobody asks for another (`config.sampling`, see `conditions`).

        None, the default: the largest bucket of the training data.
        """
        return None

    def conditions(self, prompts: Sequence[str]) -> Batch:
        """Prompts that somebody typed → conditions to sample from; by default these alone.

        What else can be asked for is a block `sampling` of the config: `t2x sample RUN "a prompt" --set key=value` and
        `T2XPipeline(…, sampling={key: value})` change its keys.
        """
        return Batch(self.name, tuple(prompts))

    def score(self, samples: Tensor, conditions: Batch) -> Mapping[str, Tensor] | None:
        """How well samples (B, 3, F, H, W) in [-1, 1] match their conditions, name → (B,); NaN = does not apply to that
        sample; None, the default: unknown."""
        return None

    def metrics(self) -> Metric | None:
        """A new running score of the samples made while training; by default the means of `score`."""
        return MeanScore(self.score)

    def render(self, samples: Tensor, conditions: Batch) -> RenderedSamples:
        """Samples (B, 3, F, H, W) in [-1, 1] as a person looks at them, for files and TensorBoard alike.

        The default is a grid with captions, which moves if there are several frames.
        """
        return caption_grid(samples, conditions.captions)

    def records(self, conditions: Batch, files: Sequence[str]) -> Mapping[str, Any]:
        """What is written beside the `files` of one sample, one a frame where the frames are views: name of a JSON file
        → its content; by default nothing. `conditions`: of this sample alone."""
        return {}


class SourcedTask(Task[SourcedConfigT]):
    """A task whose samples come from the data source that its settings name."""

    source: DataSource[Any]
    """The source; the core sets it."""

    def data_module(self, context: DataContext) -> TaskDataModule:
        return self.source.data_module(context)

    def score(self, samples: Tensor, conditions: Batch) -> Mapping[str, Tensor] | None:
        """What the source says."""
        return self.source.score(samples, conditions)


@dataclass(frozen=True)
class Component:
    """What a recipe can name: a task, a data source, a codec or a text encoder. The hook `t2x_register` returns such
    entries."""

    name: str
    """Its name in a recipe, and the name of the package's entry point."""
    config_class: type[ComponentConfig] | type[TaskConfig] | type[SourceConfig]
    """Frozen dataclass (a `TaskConfig`, `SourceConfig`, `CodecConfig` or `TextEncoderConfig`) that its block of the
    recipe is checked against; what it derives from says what the component is."""
    build: Callable[[Any], Any]
    """The config → a `Task`, `DataSource`, `LatentCodec` or `TextEncoder`: usually the class itself."""
    outline: Callable[[Any], Any] | None = None
    """The config → the same without weights, its parameters on the meta device: what a dry run counts when the weights
    are not at hand (`ComponentConfig.at_hand`). None: there is no such thing."""
