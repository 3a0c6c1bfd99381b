"""The checks of t2x, on edge-to-image, with a few images made here."""

import tempfile
from pathlib import Path
from typing import ClassVar

import torch
from torchvision.utils import save_image

from t2x_core.testing import TaskTests

FOLDER = Path(tempfile.mkdtemp())
for i in range(24):
    save_image(torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(i)), FOLDER / f"{i}.png")


class TestEdgeToImage(TaskTests):
    plugin = "edge-to-image"
    settings: ClassVar = {"folder": str(FOLDER), "size": 16}
