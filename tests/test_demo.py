"""The page of `t2x demo`, called through gradio's own client."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from t2x_core.cli.demo import noted
from t2x_core.cli.main import main
from t2x_core.demo import build_page, serve
from t2x_core.errors import UserError
from t2x_core.generation import T2XPipeline
from tests.conftest import TINY_JOINT, random_pipeline

pytest.importorskip("gradio")
gradio_client = pytest.importorskip("gradio_client")


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@pytest.fixture(scope="module")
def pipeline() -> T2XPipeline:
    return random_pipeline()


@pytest.fixture(scope="module")
def page(pipeline: T2XPipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    pipeline.save_pretrained(folder)
    own = {"run": str(folder)}
    page = serve(pipeline, "tiny", port=free_port(), note=lambda made: noted(made, own), wait=False)
    yield page
    page.close(verbose=False)


@pytest.fixture(scope="module")
def client(page: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return gradio_client.Client(page.local_url, verbose=False, download_files=tmp_path_factory.mktemp("files"))


def ask(client: Any, prompt: str = "a red circle", **changes: Any) -> tuple[Any, ...]:
    asked = {
        "negative": "",
        "seed": 3,
        "fresh": False,
        "steps": 2,
        "guidance": 2.0,
        "count": 1,
        "height": "",
        "width": "",
    } | changes
    negative = asked.pop("negative")
    found: tuple[Any, ...] = client.predict(prompt, negative, *asked.values(), api_name="/sample")
    return found


def test_a_sample_is_that_of_the_pipeline(client: Any, pipeline: T2XPipeline) -> None:
    file, line, gallery = ask(client)
    samples = pipeline("a red circle", 3, steps=2, guidance=2.0)
    expected = pipeline.render(samples).frames[0].numpy()
    assert Image.open(file).convert("RGB").tobytes() == expected.tobytes()
    assert line.startswith("seed 3 · 2 steps · guidance 2 · ")
    assert [entry["caption"] for entry in gallery] == ["seed 3"]
    ask(client, "a blue square", seed=5, count=4)
    gallery = ask(client, fresh=True)[2]
    captions = [entry["caption"] for entry in gallery]
    assert captions[1:] == ["seed 5", "seed 3"]
    assert captions[0] not in ("seed 3", "seed 5")


def test_what_else_the_task_takes(client: Any) -> None:
    plain, wide = (Image.open(ask(client, **more)[0]).size for more in ({}, {"height": "8", "width": "32"}))
    assert wide[0] / wide[1] > 1.5 > plain[0] / plain[1]


def test_a_negative_prompt(client: Any, pipeline: T2XPipeline) -> None:
    file = ask(client, negative="a blue square")[0]
    expected = pipeline.render(pipeline("a red circle", 3, negative="a blue square", steps=2, guidance=2.0)).frames[0]
    assert Image.open(file).convert("RGB").tobytes() == expected.numpy().tobytes()
    assert Image.open(ask(client)[0]).convert("RGB").tobytes() != expected.numpy().tobytes()


def test_a_file_of_the_page_can_be_made_again(client: Any, tmp_path: Path) -> None:
    file = ask(client, seed=11, count=2, negative="a blue square", height="8")[0]
    assert main(["sample", "--again", str(file), "--out", str(tmp_path / "again.png")]) == 0
    again, first = (Image.open(path).convert("RGB") for path in (tmp_path / "again.png", file))
    assert again.tobytes() == first.tobytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": "9"}, "9 pixels do not divide into tokens of 4"),
        ({"height": "tall"}, '"tall"'),
        ({"prompt": ""}, "prompt"),
    ],
)
def test_a_mistake_is_one_line_on_the_page(changes: dict[str, Any], message: str, client: Any) -> None:
    with pytest.raises(gradio_client.exceptions.AppError) as caught:
        ask(client, **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    ask(client)  # and the page goes on


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="127.0.0.2 is there on Linux alone")
def test_it_listens_on_this_machine_alone_and_tells_nobody(page: Any) -> None:
    socket.create_connection(("127.0.0.1", page.server_port), 5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", page.server_port), 5)
    assert not page.share
    assert page.share_url is None
    assert not page.analytics_enabled
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


def test_each_task_has_a_tab(pipeline: T2XPipeline) -> None:
    several = build_page(random_pipeline("joint/quickstart", TINY_JOINT), "joint")
    tabs = [block.label for block in several.blocks.values() if type(block).__name__ == "Tab"]
    assert tabs == ["text-to-image", "text-to-video", "text-to-multiview"]
    labels = {getattr(block, "label", None) for block in several.blocks.values()}
    assert {"frames", "fps", "azimuth", "elevation", "distance"} <= labels


def test_the_weights_of_loras_are_chosen_on_the_page(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    pipeline = random_pipeline()
    width = pipeline.module.backbone.config.width
    layers = {
        f"diffusion_model.blocks.0.mlp.0.lora_{side}.weight": shape for side, shape in (("A", 2), ("B", 4 * width))
    }
    tensors = {name: torch.randn((rows, width) if rows == 2 else (rows, 2)) for name, rows in layers.items()}
    file = tmp_path / "style.safetensors"
    save_file(tensors, file)
    pipeline.save_pretrained(tmp_path / "model")
    plain = pipeline.render(pipeline("a red circle", 3, steps=2, guidance=2.0)).frames[0].numpy().tobytes()
    pipeline.load_lora(file, 0.5)
    half = pipeline.render(pipeline("a red circle", 3, steps=2, guidance=2.0)).frames[0].numpy().tobytes()
    own = {"run": str(tmp_path / "model")}
    page = serve(pipeline, "tiny", port=free_port(), note=lambda made: noted(made, own), wait=False)
    try:
        client = gradio_client.Client(page.local_url, verbose=False, download_files=tmp_path_factory.mktemp("files"))
        asked = ["a red circle", "", 3, False, 2, 2.0, 1, "", ""]
        shown = {w: client.predict(*asked, w, api_name="/sample")[0] for w in (0.5, 0.0, -1.5)}
        found = {weight: Image.open(image).convert("RGB").tobytes() for weight, image in shown.items()}
    finally:
        page.close(verbose=False)
    assert half != plain
    assert found[0.5] == half
    assert found[0.0] == plain
    assert main(["sample", "--again", str(shown[-1.5]), "--out", str(tmp_path / "again.png")]) == 0
    assert Image.open(tmp_path / "again.png").convert("RGB").tobytes() == found[-1.5]


class TestMistakes:
    def test_a_port_that_is_taken(self, pipeline: T2XPipeline, page: Any) -> None:
        with pytest.raises(UserError, match=f"cannot be opened on 127.0.0.1:{page.server_port}; choose another --port"):
            serve(pipeline, "tiny", port=page.server_port, wait=False)

    def test_no_such_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(["demo", "nothing"]) == 2
        said = capsys.readouterr().err
        assert said.startswith('t2x: command line: there is no run "nothing"; ')
        assert said.count("\n") == 1

    def test_no_gradio(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        monkeypatch.setitem(sys.modules, "gradio", None)
        (tmp_path / "recipe.yaml").write_text("{}")
        assert main(["demo", str(tmp_path)]) == 2
        assert capsys.readouterr().err == "t2x: the page needs gradio; pip install 't2x[demo]'\n"
