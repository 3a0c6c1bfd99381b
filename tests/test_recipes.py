"""Every recipe that ships: resolved, and fitted for two steps through the command line."""

from __future__ import annotations

import json
import re

import pytest

from t2x_core.assembly import build_module, load_assembly
from t2x_core.cli.main import main
from t2x_core.generation import T2XPipeline
from t2x_core.recipe import dump_yaml, list_recipes, to_plain
from t2x_core.runs import find_run
from tests.conftest import (
    CLIPS,
    CPU,
    IMAGES,
    OBJECTS,
    TINY,
    TINY_CLIPS,
    TINY_EMOJI,
    TINY_IMAGES,
    TINY_JOINT,
    TINY_LATENT,
    TINY_MODEL,
    TINY_MOVING,
    TINY_OBJECTS,
    TINY_TURNTABLES,
)
from tests.data.image_set import write_good
from tests.encoders.tiny_models import save_text_encoder, save_vae
from tests.text_to_multiview.test_objects import write_object
from tests.video.video_set import write_video

NAMES = [name for name, _ in list_recipes()]


def test_the_quickstart_ships():
    assert "quickstart" in NAMES
    assert all(description for _, description in list_recipes())


OWN = ("text_to_image/folder", "text_to_image/pixels_256")
LATENT, EMOJI = "text_to_image/latent_quickstart", "text_to_image/emoji"
OWN_CLIPS = ("text_to_video/clips",)
OWN_OBJECTS = ("text_to_multiview/objects",)
FAMILY = tuple(name for name in NAMES if re.search(r"/(256|512|1024|qihoo_t2i_1b)$", name))
"""Recipes of the paper, with a VAE and T5."""


@pytest.fixture
def needed(tmp_path):
    """Recipe → settings that it does not run without."""
    write_good(tmp_path / "images", 24)
    for i in range(6):
        write_object(tmp_path / "objects" / f"thing_{i}", 4)
    for i in range(6):
        write_video(tmp_path / "clips" / f"{i}.mp4").with_suffix(".txt").write_text("a clip")
    settings = {name: [f"{IMAGES}.folder={tmp_path / 'images'}"] for name in OWN}
    one_device = ("trainer.devices=1", "trainer.strategy=auto")
    settings |= {name: [f"{OBJECTS}.folder={tmp_path / 'objects'}"] for name in OWN_OBJECTS}
    settings |= {name: [f"{CLIPS}.folder={tmp_path / 'clips'}", *one_device] for name in OWN_CLIPS}
    for name in FAMILY:
        settings[name] = family_of(name, tmp_path)
    weights = "text_encoders.minilm.weights"  # a tiny BERT instead
    minilm = [f"{weights}.package=null", f"{weights}.folder={save_text_encoder(tmp_path / 'bert', 'bert')}"]
    settings |= {LATENT: minilm, EMOJI: [*minilm, *settings[OWN[0]]]}
    return lambda name: settings.get(name, [])


def family_of(name, folder):
    """Settings of a recipe of the paper: own data, and small pretrained models of the same classes."""
    vae = folder / ("wan" if name.startswith(("text_to_video/", "joint/")) else "vae")
    if not vae.is_dir():
        save_vae(vae, "AutoencoderKLWan" if vae.name == "wan" else "AutoencoderKL")
    if not (folder / "t5").is_dir():
        save_text_encoder(folder / "t5")
    found = [f"codec.weights={{folder: {vae}, hub: null, subfolder: null}}", "codec.dtype=float32"]
    found += [f"text_encoders.t5.weights={{folder: {folder / 't5'}, hub: null}}", "text_encoders.t5.dtype=float32"]
    data = {
        "text_to_image/": f"{IMAGES}.folder={folder / 'images'}",
        "text_to_video/": f"{CLIPS}.folder={folder / 'clips'}",
    }
    data["text_to_multiview/"] = f"{OBJECTS}.folder={folder / 'objects'}"
    found += [setting for kind, setting in data.items() if name.startswith((kind, "joint/"))]
    if name.endswith("qihoo_t2i_1b"):  # its released file: tests/test_released_recipe.py
        found.append("backbone.weights=null")
    return found


def tiny_of(name):
    """Overrides with which a recipe trains in seconds."""
    if name in OWN_OBJECTS:
        return TINY_OBJECTS
    if name in FAMILY:
        sizes = {"text_to_image/": (f"{IMAGES}.size=32",), "text_to_video/": (f"{CLIPS}.size=32", f"{CLIPS}.frames=5")}
        sizes["text_to_multiview/"] = (f"{OBJECTS}.size=32", f"{OBJECTS}.views=4")
        own = [setting for kind, some in sizes.items() if name.startswith((kind, "joint/")) for setting in some]
        preset = "qihoo-t2i-1b" if name.endswith("qihoo_t2i_1b") else "null"
        rest = [s for s in TINY_MODEL if not s.startswith(("text_encoders", "backbone.preset"))]
        batch = ["trainer.accumulation=1", "trainer.tokens_per_step=null", "trainer.batch_multiple=1"]
        return (
            *own,
            *CPU,
            *rest,
            *batch,
            f"backbone.preset={preset}",
            "backbone.window=auto",
            "logging.score_samples=0",
        )
    if name.startswith("joint/"):
        return TINY_JOINT
    if name in OWN_CLIPS:
        return TINY_CLIPS
    if name.startswith("text_to_video/"):
        return TINY_MOVING
    if name.startswith("text_to_multiview/"):
        return TINY_TURNTABLES
    if name in OWN:
        return (*TINY_IMAGES, "trainer.accumulation=1", "backbone.window=auto")
    return {LATENT: TINY_LATENT, EMOJI: TINY_EMOJI}.get(name, TINY)


@pytest.mark.parametrize("name", NAMES)
def test_a_resolved_recipe_resolves_to_itself(name, needed, tmp_path):
    plain = to_plain(load_assembly(name, needed(name)).recipe)
    (tmp_path / "again.yaml").write_text(dump_yaml(plain))
    assert to_plain(load_assembly(str(tmp_path / "again.yaml"), []).recipe) == plain


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "text_to_video/512" else name for name in NAMES]
)
def test_a_recipe_trains(name, needed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = [*tiny_of(name), *needed(name)]
    assert main(["fit", name, *settings]) == 0
    printed = capsys.readouterr().out
    run = find_run(name)
    assert "trained 2 steps in " in printed
    assert f"t2x sample {run}" in printed
    for file in ("recipe.yaml", "environment.json", "log.txt", "checkpoints/best.json"):
        assert (run / file).is_file(), file
    assert list((run / "samples").glob("*_0000002.gif" if name.startswith("text_to_video/") else "*_0000002.png"))
    assert list((run / "tensorboard").glob("events*"))
    assert json.loads((run / "environment.json").read_text())["versions"]["torch"]
    assert to_plain(load_assembly(str(run / "recipe.yaml"), []).recipe) == to_plain(
        load_assembly(name, settings).recipe
    )
    pipeline = T2XPipeline.from_pretrained(run, "best", device="cpu")
    task = list(pipeline.assembly.recipe.tasks)[-1]
    assert pipeline("a red circle", task=task).pixels.shape[:2] == (1, 3)


def test_the_quickstart_is_of_the_paper_and_not_the_baseline():
    recipe = load_assembly("quickstart", []).recipe
    assert recipe.backbone.attention in ("proxy", "fused")
    assert sum(p.numel() for p in build_module(load_assembly("quickstart", [])).parameters()) < 10e6
