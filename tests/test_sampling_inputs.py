"""Images as conditions of samples, prompts that are not needed, and prompts of one's own while training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2x_core.cli.main import main
from t2x_core.data.decode import fit_to
from t2x_core.errors import UserError
from t2x_core.generation import T2XPipeline
from t2x_core.inputs import load_image
from t2x_core.types import Bucket
from tests.conftest import TINY_MODEL
from tests.package_path import add_package

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
SHORT = [text for text in TINY_MODEL if "preset" not in text]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run of image-to-video, whose package is on the path."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("videos")
        patch.chdir(folder)
        torch.set_num_threads(1)
        _install("image_to_video", folder, patch)
        Image.new("RGB", (40, 20), (255, 0, 0)).save("red.png")
        Image.new("RGB", (16, 16), (0, 0, 255)).save("blue.png")
        settings = ["tasks.image-to-video.size=16", "tasks.image-to-video.length=3", "logging.prompts=[a red circle]"]
        assert main(["fit", "package/image_to_video.yaml", *SHORT, *settings, "--folder", "run"]) == 0
        yield folder


@pytest.fixture
def run(videos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(videos)
    return videos / "run"


def _install(name: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """A copy of an example, since files are written beside it."""
    import shutil

    shutil.copytree(EXAMPLES / name, folder / "package", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    add_package(folder / "package", patch)


def test_the_image_reaches_the_patch_embedding(run, monkeypatch):
    pipeline = T2XPipeline.from_pretrained(run)
    seen = []
    hook = pipeline.module.backbone.patch_embedding.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    samples = pipeline("a circle", inputs={"first_frame": "red.png"}, steps=1, guidance=1)
    hook.remove()
    assert samples.pixels.shape == (1, 3, 3, 16, 16)
    assert samples.conditions.controls["first_frame"].shape == (1, 3, 1, 16, 16)
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1, 1)
    values = torch.cat([x.flatten() for x in seen])
    assert torch.equal(samples.conditions.controls["first_frame"], red.expand(1, 3, 1, 16, 16))
    assert len(seen) == 1
    assert int((values.abs() == 1).sum()) >= 3 * 3 * 16 * 16  # the red image, in each of the three frames


def test_another_image_another_sample_whatever_it_is_given_as(run):
    pipeline = T2XPipeline.from_pretrained(run)

    def made(image):
        return pipeline(["a circle"], seeds=[3], inputs={"first_frame": image}, steps=1, exact=True).pixels

    blue = made("blue.png")
    assert not torch.equal(made("red.png"), blue)
    assert torch.equal(made(Image.open("blue.png")), blue)
    assert torch.equal(made(Path("blue.png")), blue)
    assert torch.equal(made(fit_to(torch.tensor([0, 0, 255], dtype=torch.uint8).view(3, 1, 1), 16, 16)[:, 0]), blue)
    inputs = {"first_frame": ["red.png", "blue.png"]}
    both = pipeline(["a circle"] * 2, seeds=[3, 3], inputs=inputs, steps=1, exact=True)
    assert torch.equal(both.pixels[1:], blue)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "image-to-video needs an image for first_frame (the image that the video begins with); --input"),
        ({"first_fram": "red.png"}, 'takes no input "first_fram"; did you mean "first_frame"?'),
        ({"first_frame": "no.png"}, "no.png"),
        ({"first_frame": ["red.png"] * 3}, "there are 3 images for the input first_frame, and 2 prompts"),
        ({"first_frame": 3}, "must be a file, an image of Pillow, or a tensor, not int"),
        ({"first_frame": torch.zeros(3, 8, 8)}, "is (3, 8, 8), not (3, 16, 16)"),
        ({"first_frame": torch.full((3, 16, 16), 2.0)}, "finite and in [-1, 1]"),
        ({"first_frame": torch.zeros(3, 16, 16, dtype=torch.uint8)}, "must be floating-point"),
    ],
)
def test_what_is_wrong_with_an_image_is_one_line(run, inputs, message):
    with pytest.raises(UserError) as caught:
        T2XPipeline.from_pretrained(run)(["a circle"] * 2, inputs=inputs)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ["run", "a circle", "--input", "first_frame=red.png", "--num", "2"],
        ["run", "--num", "2", "--input", "first_frame=red.png", "a circle"],
        ["--input", "first_frame=red.png", "--num", "2", "run", "a circle"],
        ["--num", "2", "run", "--input", "first_frame=red.png", "--steps", "1", "a circle"],
    ],
)
def test_the_command_takes_it_in_any_order(run, words, tmp_path):
    out = tmp_path / "x.gif"
    assert main(["sample", *words, "--out", str(out)]) == 0
    assert Image.open(out).n_frames == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "first_frame"], '--input takes NAME=FILE, not "first_frame"'),
        (["--input", "frame=red.png"], 'there is no input "frame"; did you mean "first_frame"?'),
        (["--input", "x=red.png"], "there is first_frame (the image that the video begins with)"),
        (["--input", "first_frame=no.png"], "cannot read the input first_frame: there is no file no.png"),
    ],
)
def test_a_mistake_of_the_command_is_found_without_torch(run, words, message, capsys):
    assert main(["sample", "run", "a circle", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("t2x: command line: ")
    assert message in line


def test_it_needs_a_prompt(run, capsys):
    assert main(["sample", "run", "--input", "first_frame=red.png"]) == 2
    assert "nothing to sample; give a prompt, or --prompts FILE" in capsys.readouterr().err
    with pytest.raises(UserError, match="image-to-video needs a prompt"):
        T2XPipeline.from_pretrained(run)(inputs={"first_frame": "red.png"})


def test_prompts_of_ones_own_are_sampled_while_training(run):
    found = sorted(path.name for path in (run / "samples").iterdir() if "_prompts_" in path.name)
    assert found
    assert {name.rpartition(".")[0] for name in found} == {"image-to-video_prompts_0000002"}


def test_transparent_and_turned_images(tmp_path):
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    for image in (clear, tmp_path / "clear.png"):  # white, as the images of training data
        assert torch.equal(load_image(image, "x", Bucket(1, 8, 8)), torch.ones(3, 1, 8, 8))
    grey = Image.fromarray(np.full((8, 8), 0x8000, np.uint16))  # of 16 bit
    grey.save(tmp_path / "grey.png")
    for image in (grey, tmp_path / "grey.png"):
        assert load_image(image, "x", Bucket(1, 8, 8)).abs().max() < 0.01
    turned = Image.new("RGB", (8, 4))
    turned.paste((255, 255, 255), (0, 0, 4, 4))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "x.png", exif=exif)
    shown = load_image(Image.open(tmp_path / "x.png"), "x", Bucket(1, 8, 4))
    assert torch.equal(shown, load_image(tmp_path / "x.png", "x", Bucket(1, 8, 4)))
    assert shown[0, 0, 0].mean() > 0 > shown[0, 0, -1].mean()


def test_a_task_that_needs_no_prompt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _install("edge_to_image", tmp_path, monkeypatch)
    (tmp_path / "mine").mkdir()
    for i in range(8):
        Image.new("RGB", (16, 16), (30 * i, 0, 0)).save(f"mine/{i}.png")
    settings = ["tasks.edge-to-image.size=16", "tasks.edge-to-image.folder=mine"]
    assert main(["fit", "package/edge_to_image.yaml", *SHORT, *settings, "--folder", "run"]) == 0
    assert main(["sample", "run", "--input", "edges=mine/1.png", "--num", "2", "--out", "x.png"]) == 0
    assert Image.open("x.png").width > 2 * 128
    assert len(T2XPipeline.from_pretrained("run")(inputs={"edges": "mine/1.png"}).seeds) == 1


def test_a_prompt_that_no_task_understands_is_told_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text("base: quickstart\nlogging:\n  prompts: {text-to-imag: [a circle]}\n")
    assert main(["fit", "r.yaml"]) == 2
    message = 'r.yaml:3: logging.prompts.text-to-imag: there is no task "text-to-imag"; tasks: text-to-image'
    assert message in capsys.readouterr().err


def test_the_page_takes_the_image(run, tmp_path):
    """`t2x demo`: an animation of the first frame that was given."""
    client = pytest.importorskip("gradio_client")
    from t2x_core.demo import serve

    page = serve(T2XPipeline.from_pretrained(run, device="cpu"), "videos", wait=False)
    try:
        caller = client.Client(page.local_url, verbose=False, download_files=tmp_path)
        shown = [
            Image.open(caller.predict("a circle", "", 3, False, 1, 1.0, 1, client.handle_file(f"{name}.png"))[0])
            for name in ("red", "blue")
        ]
        with pytest.raises(client.exceptions.AppError, match="needs an image for first_frame"):
            caller.predict("a circle", "", 3, False, 1, 1.0, 1, None)
    finally:
        page.close(verbose=False)
    assert [image.n_frames for image in shown] == [3, 3]
    assert shown[0].convert("RGB").tobytes() != shown[1].convert("RGB").tobytes()
