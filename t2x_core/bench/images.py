"""Images as the loader reads them, against a bare torchvision loop; and from tar shards, against webdataset."""

from __future__ import annotations

import gc
import importlib.util
import statistics
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from t2x_core.assembly import build_data, build_module, load_assembly

HEIGHT, WIDTH = 300, 400
"""Of the images that are made, in pixels."""
SIZE, BATCH = 224, 32
"""Height and width of a sample; samples of a batch."""
PREFETCHED = 4
"""Batches that each loader process has ready, as in the loader of t2x."""
FOLDER, BARE, TAR, WEBDATASET = "folder", "bare loop", "tar", "webdataset"


@dataclass(frozen=True)
class ImagesBenchmark:
    """Seconds per image, turn by turn, of each reader; all had as many loader processes."""

    seconds: Mapping[str, list[float]]

    def speed(self, reader: str, baseline: str) -> list[float]:
        """Of a reader as a share of a baseline's, turn by turn."""
        return [b / a for a, b in zip(self.seconds[reader], self.seconds[baseline], strict=True)]

    def ratio(self, reader: str, baseline: str) -> float:
        """The median of that."""
        return statistics.median(self.speed(reader, baseline))

    def spread(self, reader: str, baseline: str) -> tuple[float, float]:
        """The quartiles of that."""
        low, _, high = statistics.quantiles(self.speed(reader, baseline), n=4)
        return low, high


def bench_images(folder: Path, images: int, turns: int, workers: int) -> ImagesBenchmark:
    """Reads as many images as there are, in turns: from a folder and from tar shards.

    A turn begins when its first batch is there, so starting processes is no part of it. All give batches of float
    tensors of one size, shuffled; t2x with its captions as numbers besides. Without webdataset it is left out.
    """
    write_images(folder, images, shards=2 * max(1, workers))
    loaders: dict[str, Callable[[], Iterable[Any]]] = {
        FOLDER: _of_t2x(f"folder={folder / FOLDER}", images, workers),
        BARE: lambda: _loader(_Bare(folder / FOLDER), workers, shuffle=True),
        TAR: _of_t2x(f"shards={folder / TAR}", images, workers),
    }
    if importlib.util.find_spec("webdataset") is not None:
        shards = sorted(map(str, (folder / TAR).iterdir()))
        loaders[WEBDATASET] = lambda: _loader(_webdataset(shards), workers)
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    for turn in range(turns + 1):
        for name, make in loaders.items():
            took = _seconds(make())
            gc.collect()  # the loader's processes end, and no later one inherits them
            if turn:  # the first one warms up
                seconds[name].append(took)
    return ImagesBenchmark(seconds)


def write_images(folder: Path, count: int, shards: int) -> None:
    """JPEGs of a smooth pattern with some noise, with captions: as files, and the same in tar shards."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    noise = np.random.default_rng(0).integers(0, 24, (HEIGHT, WIDTH, 1))
    (folder / FOLDER).mkdir()
    (folder / TAR).mkdir()
    for i in range(count):
        waves = [np.sin((x * a + y * b) / 40 + i) for a, b in ((1, 0), (0, 1), (1, 1))]
        pixels = (100 + 90 * np.stack(waves, -1) + np.roll(noise, i, 1)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / FOLDER / f"{i:06}.jpg", quality=90)
        (folder / FOLDER / f"{i:06}.txt").write_text(f"image {i}")
    for shard in range(shards):
        with tarfile.open(folder / TAR / f"{shard:04}.tar", "w") as tar:
            for i in range(shard, count, shards):
                for ending in ("jpg", "txt"):
                    tar.add(folder / FOLDER / f"{i:06}.{ending}", f"{i:06}.{ending}")


def _seconds(batches: Iterable[Any]) -> float:
    """Seconds per image, from the first batch on."""
    count, began = 0, 0.0
    for batch in batches:
        if began:
            count += len(batch)
        else:
            began = time.perf_counter()
    return (time.perf_counter() - began) / count


def _of_t2x(place: str, images: int, workers: int) -> Callable[[], Iterable[Any]]:
    settings = [place, f"size={SIZE}", "max_aspect_ratio=1.0", "check=headers"]
    own = [f"tasks.text-to-image.data.images.{setting}" for setting in settings]
    small = ["backbone.preset=null", "backbone.width=32", "backbone.depth=1", "backbone.heads=2"]
    length = [f"trainer.max_steps={images // BATCH}", f"trainer.global_batch={BATCH}", f"trainer.workers={workers}"]
    assembly = load_assembly("text_to_image/folder", [*own, *small, *length, "trainer.accelerator=cpu"])
    data = build_data(assembly, build_module(assembly))
    data.check()
    return lambda: data.train_loader(rank=0, ranks=1, first_step=lambda: 0)


def _transform() -> Callable[[Any], Tensor]:
    """What somebody writes who wants an image of SIZE² in [-1, 1]."""
    half = [0.5, 0.5, 0.5]
    return v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(SIZE, v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(SIZE),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(half, half),
        ]
    )


class _Bare(Dataset[Tensor]):
    """The images of a folder, as in torchvision's tutorials."""

    def __init__(self, folder: Path) -> None:
        self.files, self.transform = sorted(folder.glob("*.jpg")), _transform()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.open(self.files[index]).convert("RGB"))


def _webdataset(shards: list[str]) -> Any:
    """The images of shards, as in the documentation of webdataset."""
    import webdataset

    transform = _transform()
    read = webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(100).decode("pil").to_tuple("jpg")
    return read.map_tuple(transform).map(_only)


def _only(sample: tuple[Tensor]) -> Tensor:
    return sample[0]


def _loader(dataset: Any, workers: int, shuffle: bool = False) -> DataLoader[Tensor]:
    prefetched = PREFETCHED if workers else None
    return DataLoader(dataset, BATCH, shuffle=shuffle, num_workers=workers, drop_last=True, prefetch_factor=prefetched)
