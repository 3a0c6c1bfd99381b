"""`t2x plan`: each of its figures against a count that is made in another way."""

from __future__ import annotations

import io
import json
import math
import time
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.cli.main import main
from t2x_core.data.order import SampleOrder
from t2x_core.training.gpus import known_gpu
from tests.conftest import IMAGES, MOVING, TINY, TINY_IMAGES, TINY_LATENT, TINY_MOVING
from tests.data.image_set import write_good

BATCH, STEPS = 6, 200


def plan(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["plan", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def own_images(folder: Path) -> list[str]:
    """A recipe on images of four aspect ratios, in windows that do not divide the grids."""
    write_good(folder, 96)
    settings = ["size=64", "bucket_step=8", f"folder={folder}", "max_bad_fraction=0.9"]
    return [
        "text_to_image/folder",
        *TINY_IMAGES,
        *(f"{IMAGES}.{setting}" for setting in settings),
        *("backbone.patch_size=4", "backbone.window=[1,3,3]", "backbone.depth=7"),
        *(f"trainer.global_batch={BATCH}", f"trainer.max_steps={STEPS}", "trainer.workers=0"),
    ]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return own_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def found(recipe: list[str]) -> dict[str, Any]:
    """Its plan."""
    with redirect_stdout(io.StringIO()) as out:
        assert main(["plan", *recipe, "--json"]) == 0
    return json.loads(out.getvalue())


def test_samples_and_steps_are_those_of_a_loop_over_the_files(recipe, found):
    shapes = [(one["height"], one["width"]) for one in found["buckets"]]
    folder = Path(next(word for word in recipe if ".folder=" in word).partition("=")[2])
    there: Counter[tuple[int, int]] = Counter()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix != ".txt":
            width, height = ImageOps.exif_transpose(Image.open(file)).size
            there[min(shapes, key=lambda shape: abs(math.log(shape[0] / shape[1] * width / height)))] += 1
    left = {shape: there[shape] - one["samples"] for shape, one in zip(shapes, found["buckets"], strict=True)}
    (task,) = found["tasks"].values()
    assert len(shapes) > 2
    assert min(left.values()) >= 0
    assert sum(left.values()) == task["held_out"] > 0
    assert task["samples"] == sum(there.values()) - task["held_out"]
    assert task["epochs"] == pytest.approx(STEPS * BATCH / task["samples"])

    assembly = load_assembly(recipe[0], recipe[1:])
    data = build_data(assembly, build_module(assembly))
    data.check()
    order: SampleOrder = data.order(data.train_sources())
    turns = Counter(order.keys(step)[0].bucket for step in range(STEPS))
    epochs = task["epochs"]
    for index, one in enumerate(found["buckets"]):
        assert abs(one["steps"] - turns[index]) <= 1 + epochs / BATCH  # to less than one batch, and the last epoch
        assert one["repeats"] == pytest.approx(one["steps"] * BATCH / one["samples"]) == pytest.approx(epochs)
    assert sum(one["steps"] for one in found["buckets"]) == pytest.approx(STEPS)


def test_tokens_and_windows_are_those_of_a_plain_count(found):
    for one in found["buckets"]:
        tokens = [(y, x) for y in range(one["height"] // 4) for x in range(one["width"] // 4)]
        plain = {(y // 3, x // 3) for y, x in tokens}
        shifted = {((y + 2) // 3, (x + 2) // 3) for y, x in tokens}  # half a window of 3 is 1: 2 in front
        counted = one["tokens"]
        assert (counted["count"], counted["windows"]) == (len(tokens), len(plain))
        assert counted["padding"] == pytest.approx(1 - len(tokens) / (9 * len(plain)))
        assert counted["shifted_padding"] == pytest.approx(1 - len(tokens) / (9 * len(shifted)))


def test_operations_and_parameters_are_those_of_the_module(recipe, found):
    assembly = load_assembly(recipe[0], recipe[1:])
    module = build_module(assembly)
    assert found["parameters"] == sum(p.numel() for p in module.parameters())
    data = build_data(assembly, module)
    data.check()
    total = 0.0
    for index, one in enumerate(found["buckets"]):
        batch = data.example("text-to-image", index).select([0] * BATCH)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            module.training_step(batch, 0)["loss"].backward()
        assert one["flops"]["total"] == counter.get_total_flops()
        total += one["steps"] * counter.get_total_flops()
    assert found["flops"]["run"] == pytest.approx(total)
    assert found["flops"]["step"]["total"] == pytest.approx(total / STEPS)
    memory = found["memory"]
    weights = sum(p.nbytes for p in module.parameters())
    assert (memory["weights"], memory["gradients"], memory["optimizer"]) == (weights, weights, 3 * weights)


def test_frames_are_in_windows_too(capsys):
    (one,) = plan(capsys, "text_to_video/quickstart", *TINY_MOVING, f"{MOVING}.frames=6", "backbone.window=[4,2,2]")[
        "buckets"
    ]
    assert one["tokens"]["grid"] == [6, 4, 4]
    assert one["tokens"]["windows"] == 2 * 2 * 2
    assert one["tokens"]["padding"] == pytest.approx(1 - 6 / 8)
    assert one["tokens"]["shifted_padding"] == pytest.approx(1 - 6 * 4 * 4 / (2 * 4 * (3 * 2) ** 2))


def test_time_and_energy_follow_from_the_data_sheet(capsys):
    words = [*TINY, "trainer.accelerator=auto", "trainer.precision=auto", "trainer.global_batch=16"]
    found = plan(capsys, "quickstart", *words, "--device", "nvidia  h100", "--ranks", "8")
    (device,) = found["devices"]
    step = found["flops"]["step"]["total"] / 8 / (989.4e12 * 0.4)
    assert (device["name"], device["share_from"], found["precision"]) == ("H100", "assumed", "bf16-mixed")
    assert device["step_seconds"] == pytest.approx(step)
    assert device["run_seconds"] == pytest.approx(step * 2)
    assert device["energy_kwh"] == pytest.approx(8 * 700 * step * 2 / 3600 / 1000)
    assert device["fits"] is True
    assert found["flops"]["rank"] * 8 == pytest.approx(found["flops"]["step"]["total"])
    alone = plan(capsys, "quickstart", *words, "--device", "H100")
    assert alone["devices"][0]["step_seconds"] == pytest.approx(8 * step)


def test_bf16_weights_take_half_without_content_too(capsys):
    whole = plan(capsys, "quickstart", *TINY)["memory"]
    half = plan(capsys, "quickstart", *TINY, "trainer.precision=bf16-true")["memory"]
    assert half["weights"] == whole["weights"] / 2
    assert half["activations"] < 0.8 * whole["activations"]


@pytest.mark.parametrize(
    ("name", "watts", "memory"),
    [
        ("NVIDIA H100 80GB HBM3", 700, 80),
        ("NVIDIA H100 PCIe", 350, 80),
        ("NVIDIA H200", 700, 141),
        ("NVIDIA A100-SXM4-40GB", 400, 40),
        ("NVIDIA A100-SXM4-80GB", 400, 80),
        ("NVIDIA A100 80GB PCIe", 300, 80),
        ("NVIDIA L4", 72, 24),
        ("NVIDIA L40S", 350, 48),
        ("NVIDIA GeForce RTX 4090", 450, 24),
        ("NVIDIA H100 NVL", None, None),
        ("NVIDIA GH200 480GB", None, None),
        ("NVIDIA A10G", None, None),
        ("", None, None),
    ],
)
def test_a_driver_s_names_are_known(name, watts, memory):
    gpu = known_gpu(name)
    assert (gpu and gpu.watts, gpu and gpu.memory) == (watts, memory)


def test_the_cache_has_the_size_that_was_planned(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_good(tmp_path / "images", 60)
    words = ["text_to_image/emoji", *TINY_LATENT[2:], f"{IMAGES}.folder=images", f"{IMAGES}.size=32"]
    words += ["cache.folder=kept", "cache.dtype=float16", "cache.variants=2", f"{IMAGES}.flip=0.5"]
    words += ["trainer.global_batch=4", f"{IMAGES}.max_bad_fraction=0.9"]
    planned = plan(capsys, *words)["cache"]
    assert main(["cache", *words]) == 0
    said = capsys.readouterr().out
    latents, texts = planned["latents"], planned["texts"]
    kept = int(said.split(" entries encoded")[0].split()[-1].replace(",", ""))
    assert abs(latents + texts - kept) <= 0.1 * kept  # whether two versions are alike is known of some samples only
    written = sum(file.stat().st_size for file in (tmp_path / "kept" / "shards").iterdir())
    assert planned["bytes"] == pytest.approx(written, rel=0.1)


def test_measured_steps_take_the_place_of_the_assumption(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    began = time.perf_counter()
    found = plan(capsys, "quickstart", *TINY, "trainer.max_steps=1000", "--measure", "4")
    took = time.perf_counter() - began
    (device,) = found["devices"]
    assert device["share_from"] == "measured in 4 steps"
    assert 0 < 4 * device["step_seconds"] < took
    assert device["step_seconds"] * device["share"] * device["peak_flops"] == pytest.approx(
        found["flops"]["step"]["total"]
    )
    assert device["run_seconds"] == pytest.approx(1000 * device["step_seconds"])
    assert not list(tmp_path.iterdir())


def test_what_people_read_and_a_dry_run_say_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "joint/quickstart", "--device", "L4"]) == 0
    planned = capsys.readouterr().out.splitlines()
    assert main(["fit", "joint/quickstart", "--dry-run"]) == 0
    dry = capsys.readouterr().out.splitlines()
    (table,) = [i for i, line in enumerate(planned) if line.split()[:1] == ["task"]]
    assert [line.split()[0] for line in planned[table + 2 : table + 5]] == [
        "text-to-image",
        "text-to-video",
        "text-to-multiview",
    ]
    for name in ("model", "training", "data", "epochs", "compute", "precision", "memory"):
        lines = [line for line in planned if line.startswith(name)]
        assert lines
        assert lines == [line for line in dry if line.startswith(name)]
    assert any(line.startswith("note") and "trainer.accelerator=auto" in line for line in planned)


def test_weights_that_are_not_here_are_planned_all_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_good(tmp_path / "images", 40)
    words = ["text_to_image/512", *TINY_IMAGES, "text_encoders.t5=null", "backbone.window=auto"]
    words += ["trainer.accumulation=1", "trainer.gradient_checkpointing=false"]
    found = plan(capsys, *words, f"{IMAGES}.folder={tmp_path / 'images'}", f"{IMAGES}.max_bad_fraction=0.9")
    (codec,) = found["frozen"]
    assert (codec["path"], codec["dtype"]) == ("codec", "bfloat16")
    assert codec["bytes"] == 2 * codec["parameters"]
    assert found["flops"]["step"]["codec"] > 0


def test_a_recipe_without_data_is_planned_as_far_as_it_goes(capsys):
    assert main(["plan", "text_to_image/folder", *TINY_IMAGES]) == 2
    out, err = capsys.readouterr()
    assert "32×32" in out
    assert "?" in out
    assert err.count("\n") == 1
    assert "folder is missing" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--device", "H1000"], 'no device "H1000" is known; did you mean "H100"?'),
        (["--device", "toaster"], "there are: H200, "),
        (["--device", "V100", "trainer.precision=bf16-mixed"], "V100 has no units for bf16-mixed"),
        (["--device", "L4", "--measure"], "not allowed with"),
        (["--ranks", "3"], "4 does not divide into devices 3"),
        (["--ranks", "0"], "--ranks must be at least 1, not 0"),
    ],
)
def test_mistakes_are_one_line(capsys, words, says):
    assert main(["plan", "quickstart", *TINY, *words]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
