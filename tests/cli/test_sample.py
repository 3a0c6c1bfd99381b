"""`t2x sample`: files, metadata, and the same samples again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from t2x_core import sampling
from t2x_core.assembly import build_module, load_assembly
from t2x_core.cli.main import main
from t2x_core.file_notes import read_note
from t2x_core.generation import T2XPipeline
from t2x_core.rendering import rows, save
from t2x_core.types import Bucket, RenderedSamples
from t2x_plugins.text_to_multiview.camera_files import read_camera_files
from t2x_plugins.text_to_multiview.cameras import Cameras
from tests.conftest import TINY, TINY_MOVING, TINY_TURNTABLES


def exported(recipe: str, overrides: tuple[str, ...], folder: Path) -> Path:
    assembly = load_assembly(recipe, overrides)
    torch.manual_seed(0)
    module = build_module(assembly)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.1)
    T2XPipeline(assembly, module).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported("quickstart", TINY, tmp_path_factory.mktemp("models") / "images")


def sampled(*words: object) -> None:
    assert main(["sample", *map(str, words)]) == 0


def pixels(file: Path) -> np.ndarray:
    return np.array(Image.open(file).convert("RGB")).astype(int)


def test_a_folder_has_each_sample_as_it_is_and_a_sheet(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sampled(model, "A red circle!", "blau — größer", "--num", 2, "--seed", 5, "--out", "out/", "--exact")
    names = sorted(os.listdir("out"))
    assert names == [
        *("0000_a-red-circle_seed5.png", "0001_a-red-circle_seed6.png"),
        *("0002_blau-größer_seed5.png", "0003_blau-größer_seed6.png", "sheet.png"),
    ]
    assert capsys.readouterr().out == "4 samples → out/, all on sheet.png\n"
    wanted = T2XPipeline.from_pretrained(model, device="cpu")("blau — größer", 6, exact=True).images()[0]
    assert (pixels(Path("out") / names[3]) == np.array(wanted)).all()
    width, height = Image.open("out/sheet.png").size
    assert 2 * 128 < width < 3 * 128  # a row for each of the two prompts
    assert 2 * 128 < height < 3 * 128


@pytest.mark.parametrize("ending", [".png", ".webp", ".gif", ".jpg", ".mp4", ".tiff"])
def test_a_file_keeps_its_note(ending, tmp_path):
    note = json.dumps({"prompt": 'größer "\n' + "x" * 3000})
    frames = torch.zeros(3 if ending in (".gif", ".mp4") else 1, 32, 32, 3, dtype=torch.uint8)
    assert read_note(save(RenderedSamples(frames), tmp_path / f"x{ending}", note)) == note
    assert not read_note(save(RenderedSamples(frames), tmp_path / f"y{ending}"))


def test_what_is_noted_is_found_by_other_programs_and_names_no_home(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(model.parent))
    monkeypatch.chdir(tmp_path)
    sampled(model, "a red circle", "--negative", "blue", "--out", "x.png")
    noted = json.loads(Image.open("x.png").text["t2x"])
    assert noted["run"] == f"~/{model.name}"
    assert (noted["prompts"], noted["seed"], noted["negative"]) == (["a red circle"], 0, "blue")
    assert (noted["sampler"], noted["steps"], noted["guidance"]) == ("heun", 2, 1.5)
    assert str(model.parent).encode() not in Path("x.png").read_bytes()
    sampled("--again", "x.png")
    assert Path("again.png").read_bytes() == Path("x.png").read_bytes()
    sampled(model, "a red circle", "--guidance", 0, "--seed", 4, "--out", "y.png")
    sampled("--again", "y.png", "--seed", 0, "--out", "z.png")  # 0 is a value
    noted = json.loads(Image.open("z.png").text["t2x"])
    assert (noted["guidance"], noted["seed"]) == (0, 0)


def test_again_makes_a_sample_again_bit_by_bit(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ("--num", 3, "--guidance", 3, "--steps", 3, "--size", "16x24", "--sampler", "unipc", "--exact")
    sampled(model, "a red circle", "-5 -- x", *asked, "--negative=-b", "--out", "out/")
    for file in sorted(Path("out").glob("*.png")):
        sampled("--again", file)
        assert Path("again.png").read_bytes() == file.read_bytes()
    sampled("--again", "out/0004_5-x_seed1.png", "--seed", 2, "--out", "other.png")  # an option counts more
    assert (pixels("other.png") == pixels("out/0005_5-x_seed2.png")).all()
    assert pixels("other.png").shape == (16, 24, 3)


def test_an_aspect_ratio_takes_the_nearest_trained_shape(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trained = [Bucket(1, 16, 24, 3), Bucket(1, 32, 48, 5), Bucket(1, 24, 16, 9), Bucket(1, 20, 20, 4)]
    T2XPipeline(tiny, build_module(tiny), {"text-to-image": trained}).save_pretrained("m")
    for aspect, shape in {
        "16:9": (32, 48),
        "1.5:1": (32, 48),
        "2:3": (24, 16),
        "9:16": (24, 16),
        "1:1": (20, 20),
    }.items():
        sampled("m", "a red circle", "--aspect", aspect, "--raw", "--out", "x.png")
        assert pixels("x.png").shape[:2] == shape
    sampled("--again", "x.png", "--out", "y.png")
    assert Path("y.png").read_bytes() == Path("x.png").read_bytes()
    sampled("--again", "x.png", "--aspect", "9:16", "--out", "z.png")
    assert pixels("z.png").shape[:2] == (24, 16)
    T2XPipeline(tiny, build_module(tiny)).save_pretrained("unknown")
    capsys.readouterr()
    for words, said in {
        ("unknown", "--aspect", "16:9"): "in which shapes the model was trained is not known; write --size",
        ("m", "--aspect", "0:9"): '--aspect is WIDTH:HEIGHT, such as 16:9, not "0:9"',
        ("m", "--aspect", "wide"): '--aspect is WIDTH:HEIGHT, such as 16:9, not "wide"',
        ("m", "--aspect", "1:1", "--size", "16"): "--aspect chooses the size; leave out --size",
    }.items():
        assert main(["sample", words[0], "a red circle", *words[1:]]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"t2x: command line: {said}")
        assert error.count("\n") == 1


def test_clips_are_written_at_their_rate_and_again(tmp_path, monkeypatch):
    model = exported("text_to_video/quickstart", TINY_MOVING, tmp_path / "clips")
    monkeypatch.chdir(tmp_path)
    sampled(model, "a red circle moves", "--set", "fps=5", "--out", "out/")
    assert sorted(os.listdir("out")) == ["0000_a-red-circle-moves_seed0.mp4", "sheet.mp4"]
    with av.open("out/0000_a-red-circle-moves_seed0.mp4") as file:
        assert (file.streams.video[0].average_rate, sum(1 for _ in file.decode(video=0))) == (5, 4)
    sampled("--again", "out/0000_a-red-circle-moves_seed0.mp4", "--out", "x.webp", "--exact")
    wanted = T2XPipeline.from_pretrained(model, device="cpu")("a red circle moves", sampling={"fps": 5}, exact=True)
    with Image.open("x.webp") as image:
        assert image.n_frames == 4
        image.seek(3)
        last = np.array(image.convert("RGB"))
    assert (last == ((wanted.pixels[0, :, 3].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()).all()
    assert main(["sample", str(model), "a red circle", "--out", "out/", "--format", "png"]) == 2


def test_views_are_a_folder_with_cameras(tmp_path, monkeypatch):
    model = exported("text_to_multiview/quickstart", TINY_TURNTABLES, tmp_path / "views")
    monkeypatch.chdir(tmp_path)
    sampled(model, "a red cone", "--set", "elevation=35", "--set", "fov=50", "--out", "out/")
    assert sorted(os.listdir("out")) == ["0000_a-red-cone_seed0", "sheet.png"]
    folder = Path("out/0000_a-red-cone_seed0")
    assert sorted(os.listdir(folder)) == ["cameras.json", "view_00.png", "view_01.png", "view_02.png"]
    found = read_camera_files(folder, ["cameras.json"])  # as a folder of one's own objects is read
    assert [frame.image for frame in found.frames] == ["view_00.png", "view_01.png", "view_02.png"]
    wanted = Cameras.turntable(3, 0, 35, 3.0, 50)
    rotations = np.stack([frame.matrix[:3, :3] for frame in found.frames])
    np.testing.assert_allclose(rotations, wanted.poses[:, :3, :3].numpy(), atol=1e-6)
    sampled("--again", folder / "view_01.png")
    again = Path("again") / folder.name
    assert (pixels(again / "view_02.png") == pixels(folder / "view_02.png")).all()


def test_rows_stand_below_one_another():
    red, blue = (torch.tensor(c, dtype=torch.uint8).expand(1, 2, 3, 3) for c in ([255, 0, 0], [0, 0, 255]))
    sheet = rows([[RenderedSamples(red), RenderedSamples(blue)], [RenderedSamples(blue)]]).frames
    assert sheet.shape == (1, 4, 6, 3)
    assert sheet[0, 0, :, 2].tolist() == [0, 0, 0, 255, 255, 255]
    assert sheet[0, 3, :, 0].tolist() == [0, 0, 0, 250, 250, 250]


def test_what_is_done_is_kept_at_ctrl_c(model, tmp_path, monkeypatch, capsys):
    whole = sampling._sample_batch
    left = [2]

    def stops(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return whole(*arguments)

    monkeypatch.setattr(sampling, "_sample_batch", stops)
    monkeypatch.chdir(tmp_path)
    asked = ["sample", str(model), "a", "b", "--num", "2", "--batch-size", "1", "--out"]
    assert main([*asked, "out/"]) == 130
    assert capsys.readouterr().out == "stopped: 2 of 4 samples → out/, all on sheet.png\n"
    assert sorted(os.listdir("out")) == ["0000_a_seed0.png", "0001_a_seed1.png", "sheet.png"]
    assert main([*asked, "x.png"]) == 130
    assert capsys.readouterr().out == "stopped before the first batch of samples was done: nothing is written\n"
    assert not Path("x.png").exists()


@pytest.mark.parametrize("where", ["hf://some-one/shapes", "some-one/shapes"])
def test_a_model_in_the_cache_of_the_hub(where, model, tmp_path, monkeypatch):
    """Laid out as huggingface_hub documents its cache."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--some-one--shapes"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    os.symlink(model, repository / "snapshots" / commit)
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "t2x_core.cli.main", "sample", where, "a red circle", "--out", "x.png"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert json.loads(read_note(tmp_path / "x.png"))["run"] == f"hf://some-one/shapes@{commit}"
    command[4] = where.replace("shapes", "absent")
    failed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (failed.returncode, failed.stderr.count("\n")) == (2, 1)
    assert "some-one/absent cannot be fetched from the hub" in failed.stderr


@pytest.mark.slow
def test_ctrl_c_ends_a_process_with_what_is_done(model, tmp_path):
    command = [sys.executable, "-m", "t2x_core.cli.main", "sample", str(model), "a", "--num", "500", "--steps", "9"]
    process = subprocess.Popen([*command, "--batch-size", "1", "--out", "out/"], cwd=tmp_path, stdout=subprocess.PIPE)
    while not list(tmp_path.glob("out/0002*.png")):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said = process.communicate()[0].decode()
    assert process.returncode == 130
    assert said.startswith("stopped: ")
    assert (tmp_path / "out" / "sheet.png").is_file()
