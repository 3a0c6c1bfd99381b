"""The task edge-to-image."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_to_image.config import EdgeToImageConfig
from t2x_core.conditioning import TextConditioning
from t2x_core.data import stack
from t2x_core.data.decode import SUFFIXES, DamagedImageError, decode, fit_to
from t2x_core.errors import UnreadableError, UserError
from t2x_core.interfaces import Component, ConditioningAdapter, DataContext, ModelContext, Source, Task, TaskDataModule
from t2x_core.plugins import hookimpl
from t2x_core.types import Batch, Bucket, Sample, SampleKey, Variation

BLACK = (0, 0, 0)


def edges(pixels: Tensor) -> Tensor:
    """White edges on black, (3, F, H, W) in [-1, 1], of pixels alike: how steep the brightness is (Sobel)."""
    grey = pixels.mean(0).unsqueeze(1)  # (F, 1, H, W)
    across = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]).view(1, 1, 3, 3)
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    steep = torch.hypot(F.conv2d(padded, across), F.conv2d(padded, across.transpose(2, 3)))
    return (steep.transpose(0, 1).clamp(max=2) - 1).expand(3, -1, -1, -1)


class EdgesSource(Source):
    """Images of files, each with its edges as a control."""

    def __init__(self, files: Sequence[Path], folder: Path, size: int) -> None:
        self.files, self.folder, self.size = list(files), folder, size

    def buckets(self) -> Sequence[Bucket]:
        return [Bucket(1, self.size, self.size, len(self.files))]

    def __len__(self) -> int:
        return len(self.files)

    def vary(self, key: SampleKey) -> Variation:
        return Variation(key)

    def load(self, variation: Variation) -> Sample:
        key = variation.key
        file = self.files[key.id]
        try:
            pixels = fit_to(decode(file, BLACK, covering=(self.size, self.size)), self.size, self.size)
        except DamagedImageError as error:
            raise UnreadableError from error  # another one takes its place
        caption = file.with_suffix(".txt")
        text = caption.read_text(errors="replace").strip() if caption.is_file() else ""
        return Sample(key, pixels, text, controls={"edges": edges(pixels)})

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return stack(samples)

    def name(self, key: SampleKey) -> str:
        return str(self.files[key.id].relative_to(self.folder))


class EdgesData(TaskDataModule):
    """The images of a folder; those that are held out are chosen by their names."""

    def __init__(self, config: EdgeToImageConfig) -> None:
        super().__init__()
        self.config = config

    def setup(self, stage: str) -> None:
        folder = self.config.folder
        found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
        if len(found) < 2:
            raise UserError(f"there are {len(found)} images in {folder}", key="folder", hint="two are needed at least")
        by_hash = sorted(found, key=lambda f: hashlib.sha256(str(f.relative_to(folder)).encode()).digest())
        apart = max(1, round(self.config.held_out * len(found)))
        self.held_out, self.train = sorted(by_hash[:apart]), sorted(by_hash[apart:])

    def train_source(self) -> Source:
        return EdgesSource(self.train, self.config.folder, self.config.size)

    def val_source(self) -> Source:
        return EdgesSource(self.held_out, self.config.folder, self.config.size)


class EdgeToImage(Task[EdgeToImageConfig]):
    """Images that have the given edges; a caption may say more."""

    encoded_controls = ("edges",)

    def data_module(self, context: DataContext) -> TaskDataModule:
        return EdgesData(self.config)

    def adapter(self, context: ModelContext) -> ConditioningAdapter:
        return TextConditioning(context, controls=["edges"])

    def score(self, samples: Tensor, conditions: Batch) -> dict[str, Tensor]:
        """How near the edges of a sample are to the given ones, on average: 1 is the same."""
        own = torch.stack([edges(pixels) for pixels in samples])
        return {"edges": 1 - (own - conditions.controls["edges"]).abs().flatten(1).mean(1) / 2}


@hookimpl
def t2x_register() -> Sequence[Component]:
    return [Component("edge-to-image", EdgeToImageConfig, EdgeToImage)]
