"""Blocks of a recipe that plugins bring: their settings derive from these classes.

Write them with `@dataclass(frozen=True, kw_only=True)`. The line under a field is its meaning, with the unit; `t2x`
shows it to users.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from t2x_core.errors import UserError
from t2x_core.recipe.constraints import Range

Kind = Literal["task", "source", "codec", "text_encoder"]
"""What a recipe names and a plugin brings."""

Positive = Annotated[float, Range(above=0)]
Fraction = Annotated[float, Range(min=0, max=1)]
Count = Annotated[int, Range(min=1)]
CountOrZero = Annotated[int, Range(min=0)]
Beta = Annotated[float, Range(min=0, below=1)]


@dataclass(frozen=True, kw_only=True)
class TaskConfig(ABC):
    """Block of a task. A plugin adds its own fields, usually `data`, `conditioning` and `loss`."""

    weight: Positive = 1.0
    """Share of the optimizer steps that this task gets, relative to the weights of the others."""
    global_batch: Count | None = None
    """Samples of an optimizer step of this task; `null`: as `trainer.global_batch` or `trainer.tokens_per_step` say."""

    needs_prompt: ClassVar[bool] = True
    """Whether nothing can be sampled without a prompt."""

    @abstractmethod
    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """Key of this block → (height, width) in pixels, for each size of samples that the block itself fixes.

        With it a size, a patch or a window that does not fit is found before anything is imported or read.
        """

    def data_block(self, name: str) -> str:
        """Path in the recipe of the block that the data of the task is made from; `name`: of the task there."""
        return f"tasks.{name}"

    def check_trainable(self) -> None:  # noqa: B027 (a default)
        """UserError if something is missing that only training needs, such as where the data is: sampling with weights
        that are named goes without it. The default wants nothing."""

    def frames(self) -> Mapping[str, Sequence[int]]:
        """Key of this block → numbers of frames, of those that the block itself fixes and that the codec sees as one
        video. The default names none: images, or views, which are encoded one by one."""
        return {}

    def inputs(self) -> Mapping[str, str]:
        """Name of each image that may be given to sample from, besides a prompt → what it is, in a few words.

        `Task.conditions` need not know them: they become controls of the conditions. Those that are among
        `Task.encoded_controls` have to be given.
        """
        return {}


@dataclass(frozen=True, kw_only=True)
class SourceConfig(ABC):
    """Block of a data source, which stands in the block `data` of a task: `data: {NAME: {…}}`."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Height and width of a square sample, in pixels: of those sampled where nobody asks for others. Usually a
        setting."""

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """As `TaskConfig.sizes`, by keys of this block; the default names `size`."""
        return {"size": (self.size, self.size)}

    def frame_counts(self) -> Mapping[str, Sequence[int]]:
        """As `TaskConfig.frames`, by keys of this block."""
        return {}

    def check_trainable(self) -> None:  # noqa: B027 (a default)
        """As `TaskConfig.check_trainable`."""


@dataclass(frozen=True, kw_only=True)
class SourcedTaskConfig(TaskConfig):
    """Block of a task whose samples come from a data source that the recipe names, of this or of another package."""

    data: dict[str, SourceConfig]
    """Where samples come from: the name of a data source, and its settings; `{}` for its defaults."""

    source_class: ClassVar[type] = SourceConfig
    """What the settings of a source derive from if it fits the task."""

    @property
    def source(self) -> Any:
        """Settings of the source, a `source_class`."""
        return self.data[self.source_name]

    @property
    def source_name(self) -> str:
        (name,) = self.data
        return name

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        return {f"data.{self.source_name}.{key}": size for key, size in self.source.sizes().items()}

    def frames(self) -> Mapping[str, Sequence[int]]:
        return {f"data.{self.source_name}.{key}": counts for key, counts in self.source.frame_counts().items()}

    def data_block(self, name: str) -> str:
        return f"tasks.{name}.data.{self.source_name}"

    def check_trainable(self) -> None:
        try:
            self.source.check_trainable()
        except UserError as error:
            error.key = ".".join(filter(None, ("data", self.source_name, error.key)))
            raise


@dataclass(frozen=True, kw_only=True)
class ComponentConfig:
    """Block of a codec or of a text encoder; each adds its own fields."""

    name: str
    """Registered name of the component."""

    def weight_files(self) -> Sequence[Path] | None:
        """Files that its weights and their settings come from, so that it is known without being loaded whether it is
        still the same; None, the default: that cannot be told. OSError or UserError if they are not there."""
        return None

    def neutral_keys(self) -> Collection[str]:
        """Keys of this block that change nothing about what it computes (where the weights lie, on which device it
        runs): cached latents and text tokens stay valid."""
        return ()

    def at_hand(self) -> bool:
        """Whether all that it needs is on this machine; what is not would be downloaded, which a dry run does not."""
        return True


@dataclass(frozen=True, kw_only=True)
class CodecConfig(ComponentConfig, ABC):
    """Block of a latent codec."""

    @property
    @abstractmethod
    def spatial_factor(self) -> int | None:
        """Pixels of height and width for one latent cell; None if that is only known once the codec is loaded."""

    @property
    def frame_factor(self) -> int | None:
        """Frames for one frame of the latents, the first left out, which stands for itself: numbers of frames less one
        must be multiples of it. The default is 1: any number fits. None if that is known once the codec is loaded."""
        return 1


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig(ComponentConfig):
    """Block of a text encoder."""


BLOCKS: dict[Kind, type] = {
    "task": TaskConfig,
    "source": SourceConfig,
    "codec": CodecConfig,
    "text_encoder": TextEncoderConfig,
}
"""What the settings of each kind derive from."""


def multiples(number: int, of: int) -> str:
    """The multiples next to `number`: "24 and 32"."""
    below = number // of * of
    return f"{below} and {below + of}" if below else f"{of} and {2 * of}"
