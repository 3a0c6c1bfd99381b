"""Settings of clips of one's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from t2x_core.errors import UserError
from t2x_core.recipe import Range
from t2x_plugins.captioned.captioned_config import Colour, ColumnsConfig, Pattern

Count = Annotated[int, Range(min=1)]


@dataclass(frozen=True, kw_only=True)
class ClipsConfig:
    """Clips of one's own, cut out of videos in a folder or a manifest."""

    folder: Path | None = None
    """Folder of the videos, each with its captions in a `.txt` of the same name; with a manifest, what its paths are
    relative to."""
    manifest: Path | None = None
    """Table with one video a row (`.jsonl`, `.csv`, `.tsv`, `.parquet`); its paths are relative to it."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Which columns of the manifest hold what."""
    missing_captions: Literal["error", "empty", "skip"] = "error"
    """Videos without a caption: `error` stops and names them, `empty` gives them an empty one, `skip` drops them."""
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
    size: Count = 256
    """Height and width of the square bucket, in pixels; the other buckets have about as many pixels."""
    max_aspect_ratio: Annotated[float, Range(min=1)] = 2.0
    """Longer side over shorter side of the longest bucket; 1: squares only. Longer videos are cropped."""
    bucket_step: Count | None = None
    """Pixels by which the short sides of neighbouring buckets differ; `null`: about an eighth of the size."""
    small_buckets: Literal["merge", "error"] = "merge"
    """Buckets with fewer videos than a batch: `merge` moves these to the next one, `error` stops and names them."""
    crop: Literal["center", "random"] = "center"
    """Which part is kept of a video that is longer than its bucket (training only)."""
    flip: Annotated[float, Range(min=0, max=1)] = 0.0
    """Chance that a clip is mirrored; then "left" in a caption is no longer true (training only)."""
    background: Annotated[str, Colour()] = "#ffffff"
    """Colour behind transparent pixels of images, as "#rrggbb"."""
    held_out: Annotated[float, Range(above=0, max=0.5)] = 0.05
    """Share of the videos that is never trained on, at least one; chosen by the path (or the group), so
    that it stays the same."""
    group: Annotated[str, Pattern()] | None = None
    """Regular expression for the path below the folder: videos in which it matches the same text (or the same groups in
    parentheses) are pieces of one source, and are held out together; `null`: each by itself."""
    val_count: Count = 128
    """Most clips of the validation set; of the videos held out, always the same."""
    check: Literal["full", "headers"] = "full"
    """Before training, decode three frames of every video (and remember the good ones), or look at headers only."""
    max_bad_fraction: Annotated[float, Range(min=0, max=1)] = 0.05
    """Share of damaged, missing or too short videos above which training stops."""
    decode_seconds: Annotated[float, Range(above=0)] = 60.0
    """Longest time for one clip; then the decoder is killed, another one tries, and the video is left out."""

    def __post_init__(self) -> None:
        if (self.stride is None) == (self.fps is None):
            both = "there are both stride and fps" if self.fps else "how frames are chosen is missing"
            raise UserError(both, hint="set fps (frames a second) or stride (every n-th frame), and the other to null")
        if not self.numbers:
            raise UserError("name at least one number of frames", key="frames")

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of frames, the largest first."""
        return (self.frames,) if isinstance(self.frames, int) else tuple(sorted(set(self.frames), reverse=True))
