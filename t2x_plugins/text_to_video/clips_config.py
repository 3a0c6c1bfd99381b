"""Settings of clips of one's own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from t2x_core.errors import UserError
from t2x_core.recipe import Range, SourceConfig
from t2x_plugins.captioned.captioned_config import FilesConfig

Count = Annotated[int, Range(min=1)]


@dataclass(frozen=True, kw_only=True)
class ClipSourceConfig(SourceConfig):
    """Block of a data source that gives captioned clips, each with its frames a second as `extra["fps"]`, (B,)."""

    @property
    @abstractmethod
    def longest(self) -> int:
        """Frames of the longest clips: of those sampled where nobody asks for others."""

    @property
    @abstractmethod
    def rate(self) -> float:
        """Frames a second of a sampled clip where nobody asks for others."""


@dataclass(frozen=True, kw_only=True)
class ClipsConfig(FilesConfig, ClipSourceConfig):
    """Clips of one's own, cut out of videos in folders, a manifest or shards."""

    what = "videos"

    frames: Count | tuple[Count, ...] = 16
    """Frames of a clip, or several such numbers: a video gives clips of the largest that it is long enough for. With 1
    among them, images are read, too."""
    stride: Count | None = None
    """Every n-th frame of the video is taken, whatever its frame rate; not with `fps`."""
    fps: Annotated[float, Range(above=0, max=240)] | None = None
    """Frames a second of a clip: the frames that are shown at these times, by the video's own clock; not with
    `stride`."""
    start: Literal["random", "center"] = "random"
    """Where in its video a clip begins (training only; else in the middle)."""
    val_count: Count = 128
    """Most clips of the validation set; of the videos held out, always the same."""
    check: Literal["full", "headers", "index"] = "full"
    """Before training, decode three frames of every video (and remember the good ones), or look at headers only;
    `index`: decode these once, and look at no file again as long as the manifest, the shards or the names in the folder
    are the same."""
    decode_seconds: Annotated[float, Range(above=0)] = 60.0
    """Longest time for one clip; then the decoder is killed, another one tries, and the video is left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.stride is None) == (self.fps is None):
            both = "there are both stride and fps" if self.fps else "how frames are chosen is missing"
            raise UserError(both, hint="set fps (frames a second) or stride (every n-th frame), and the other to null")
        if not self.numbers:
            raise UserError("name at least one number of frames", key="frames")

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of frames, the largest first."""
        return (self.frames,) if isinstance(self.frames, int) else tuple(sorted(set(self.frames), reverse=True))

    def frame_counts(self) -> Mapping[str, Sequence[int]]:
        return {"frames": self.numbers}

    @property
    def longest(self) -> int:
        return self.numbers[0]

    @property
    def rate(self) -> float:
        return self.fps or 8.0  # with a stride, that of the videos is not known here
