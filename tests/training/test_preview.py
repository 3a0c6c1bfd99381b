"""Images while training are decoded by the codec's small VAE, those at the end by its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from t2x_core.cli.main import main
from tests.cache.recipes import IMAGE, write_recipe
from tests.encoders.tiny_models import save_vae

pytest.importorskip("diffusers")


def images(recipe: Path, name: str, *settings: str) -> dict[str, bytes]:
    """File name → content of the samples of a run of four steps."""
    steps = ("trainer.max_steps=4", "logging.sample_every=2", "cache.folder=null")
    assert main(["fit", str(recipe), "--folder", str(recipe.parent / name), *steps, *settings]) == 0
    return {file.stem: file.read_bytes() for file in (recipe.parent / name / "samples").glob("*.png")}


def test_the_last_images_are_those_of_the_large_vae(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, IMAGE)
    small = save_vae(tmp_path / "small", "AutoencoderTiny", seed=1)
    with_small = images(recipe, "with", f"codec.preview.folder={small}")
    without = images(recipe, "without")
    first, last = sorted(without)
    assert sorted(with_small) == [first, last]
    assert with_small[first] != without[first]
    assert with_small[last] == without[last]
