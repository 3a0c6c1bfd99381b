"""What an entry was made of has changed: it is encoded again, and the others are kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.cli.main import main
from t2x_core.precompute.plan import make_plan
from tests.cache.recipes import IMAGE, VIDEO, write_recipe
from tests.encoders.tiny_models import save_text_encoder, save_vae

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
ALL, SOME = -1, -2
TRAINED = "tasks.text-to-image.data.images"


def missing(recipe: Path, *overrides: str) -> tuple[int, int, int]:
    """Latents and texts that a recipe wants and the cache has not; and all that it wants."""
    assembly = load_assembly(str(recipe), list(overrides))
    module = build_module(assembly)
    data = build_data(assembly, module)
    data.check()
    plan, there = make_plan(assembly, module, data), module.cache.store.keys()
    return len(plan.latents.keys() - there), len(plan.text.keys() - there), len(plan.keys)


def other_pixels(folder: Path, keep_time: bool = False) -> None:
    file = folder / "images" / "05.png"
    before = file.stat()
    Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    if keep_time:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def touch(folder: Path) -> None:
    os.utime(folder / "images" / "05.png", (1, 1))


def caption(folder: Path) -> None:
    (folder / "images" / "05.txt").write_text("a green one\nthe small square on the left\n")


def remove(folder: Path) -> None:
    for ending in ("png", "txt"):
        (folder / "images" / f"05.{ending}").unlink()


def added(folder: Path) -> None:
    for ending in ("png", "txt"):
        (folder / "images" / f"000.{ending}").write_bytes((folder / "images" / f"05.{ending}").read_bytes())


def scaling(folder: Path) -> None:
    config = folder / "vae" / "config.json"
    assert '"scaling_factor": 0.3' in config.read_text()
    config.write_text(config.read_text().replace('"scaling_factor": 0.3', '"scaling_factor": 0.5'))


def vocabulary(folder: Path) -> None:
    file = folder / "t5" / "tokenizer.json"
    file.write_text(file.read_text().replace('"red": ', '"rot": '))


def nothing(folder: Path) -> None:
    pass


CASES: dict[str, tuple[Callable[[Path], Any], list[str], tuple[int, int]]] = {
    # what changes, overrides, most (latents, texts) to encode again
    "nothing": (nothing, [], (0, 0)),
    "pixels": (other_pixels, [], (2, 0)),
    "time of change": (touch, [], (2, 0)),
    "caption": (caption, [], (0, 1)),
    "removed file": (remove, [], (0, 0)),
    "added file": (added, [], (2, 0)),
    "size": (nothing, [f"{TRAINED}.size=24"], (ALL, 0)),
    "flip": (nothing, [f"{TRAINED}.flip=0"], (SOME, 0)),
    "crop": (nothing, [f"{TRAINED}.crop=center", f"{TRAINED}.flip=0"], (SOME, 0)),
    "background": (nothing, [f"{TRAINED}.background='#000000'"], (ALL, 0)),
    "weights of the VAE": (lambda folder: save_vae(folder / "vae", seed=1), [], (ALL, 0)),
    "scaling of the VAE": (scaling, [], (ALL, 0)),
    "precision of the VAE": (nothing, ["codec.dtype=bfloat16"], (ALL, 0)),
    "chunks of the VAE": (nothing, ["codec.chunk=1"], (0, 0)),
    "dtype": (nothing, ["cache.dtype=float16"], (ALL, ALL)),
    "dtype of text": (nothing, ["cache.text_dtype=float16"], (0, ALL)),
    "versions": (nothing, ["cache.variants=3"], (SOME, 0)),
    "weights of the text encoder": (lambda folder: save_text_encoder(folder / "t5", seed=1), [], (0, ALL)),
    "vocabulary": (vocabulary, [], (0, ALL)),
    "longest text": (nothing, ["text_encoders.t5.max_tokens=12"], (0, ALL)),
    "layer": (nothing, ["text_encoders.t5.layer=1"], (0, ALL)),
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("filled")
    assert main(["cache", str(write_recipe(folder, IMAGE))]) == 0
    return folder


@pytest.mark.parametrize("case", CASES)
def test_what_has_changed_is_encoded_again_and_the_rest_is_kept(case, filled, tmp_path):
    change, overrides, (latents, texts) = CASES[case]
    folder = tmp_path / "copy"
    shutil.copytree(filled, folder)  # with times of change
    change(folder)
    recipe = folder / "recipe.yaml"
    found = missing(recipe, *overrides)
    everything = missing(recipe, *overrides, f"cache.folder={tmp_path / 'none'}")
    for number, wanted, whole in zip(found, (latents, texts), everything, strict=False):
        if wanted == ALL:
            assert number == whole > 4
        elif wanted == SOME:
            assert 0 < number < whole
        else:
            assert number <= wanted
            assert bool(number) == bool(wanted)


def test_bytes_see_what_times_do_not(filled, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(filled, folder)
    recipe, by_bytes = folder / "recipe.yaml", "cache.identity=bytes"
    assert main(["cache", str(recipe), by_bytes]) == 0
    touch(folder)
    assert missing(recipe, by_bytes)[:2] == (0, 0)
    other_pixels(folder, keep_time=True)
    assert missing(recipe, by_bytes)[:2] == (2, 0)


def test_frames_and_rates_of_clips(tmp_path):
    data = "tasks.text-to-video.data.moving-shapes"
    recipe = write_recipe(tmp_path, VIDEO)
    assert main(["cache", str(recipe)]) == 0
    assert missing(recipe)[:2] == (0, 0)
    for other in (f"{data}.frames=5", f"{data}.fps=[6.0]", f"{data}.spread=0.5", f"{data}.size=24", "seed=1"):
        latents, _, _ = missing(recipe, other)
        assert latents == 16, other
    assert missing(recipe, f"{data}.count=14")[0] == 2
