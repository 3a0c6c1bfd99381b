"""A first look at somebody's images: `t2x new images`."""

from __future__ import annotations

from pathlib import Path

from t2x_core.data.decode import SUFFIXES
from t2x_core.data.index import measure_image
from t2x_core.starting.machine import Machine
from t2x_core.starting.summary import DataSummary, median_side, words_in
from t2x_plugins.captioned.look import look_at_files

MOST = 200
"""Images that are decoded."""


def look_at_images(folder: Path, machine: Machine) -> DataSummary:
    """Images of a folder, with captions beside them."""
    found = look_at_files(folder, "images", SUFFIXES, measure_image, MOST, "cat.jpg")
    return DataSummary(
        task="text-to-image",
        block="images",
        noun="image",
        count=found.count,
        sizes=found.sizes,
        words=words_in(found.captions),
        example=found.captions[0],
        recipes={
            "pixels": "text_to_image/folder",
            "latents-256": "text_to_image/256",
            "latents-512": "text_to_image/512",
        },
        settings=found.settings,
        lines=[*found.lines, f"the median image is as large as {median_side(found.sizes)} square"],
    )
