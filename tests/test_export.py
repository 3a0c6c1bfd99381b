"""What `t2x export` and `T2XPipeline.save_pretrained` give away, read by other libraries and opened elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects
from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngInfo
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.backbone import PTDiT
from t2x_core.cli.main import main
from t2x_core.errors import UserError
from t2x_core.generation import T2XPipeline
from t2x_core.hub import WANTED
from t2x_core.recipe import to_plain
from t2x_core.training import fit, run_folder
from tests.conftest import TINY
from tests.encoders.tiny_models import save_text_encoder, save_vae


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps, scored after two and four."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assembly = load_assembly("quickstart", [*TINY, "trainer.max_steps=4"])
    folder.mkdir()
    run_folder.write_run(folder, to_plain(assembly.recipe))
    module = build_module(assembly)
    data = build_data(assembly, module)
    fit(assembly, module, data, folder)
    (folder / "data.json").write_text(json.dumps(data.fingerprint()))
    return folder


def scalars(run: Path, tag: str) -> dict[int, float]:
    events = EventAccumulator(str(run / "tensorboard"), {"scalars": 0}).Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


class TestCard:
    @pytest.mark.parametrize("step", [2, 4])
    def test_it_says_what_the_run_measured_up_to_the_checkpoint(self, step: int, run: Path, tmp_path: Path) -> None:
        assert main(["export", str(run), "--out", str(tmp_path / "m"), "--checkpoint", str(step)]) == 0
        card = ModelCard.load(tmp_path / "m/README.md")
        results = {result.metric_type: result.metric_value for result in card.data.eval_results}
        for what in ("count", "shape", "colour", "all"):
            assert results[what] == pytest.approx(scalars(run, f"score/text-to-image/{what}")[step], abs=1e-4)
        assert f"| validation loss | {scalars(run, 'val/loss')[step]:.4f} |" in card.text
        assert f"| optimizer steps | {step} |" in card.text
        (bucket,) = json.loads((run / "data.json").read_text())["text-to-image"]["train"]["buckets"]
        assert f"| data of text-to-image | {bucket[3]:,} samples, 6 held out |" in card.text
        assert (card.data.library_name, card.data.pipeline_tag, card.data.license) == ("t2x", "text-to-image", None)
        assert (tmp_path / "m/recipe.yaml").read_text() in card.text
        shown, made = tmp_path / "m/samples/text-to-image.png", run / f"samples/text-to-image_{step:07d}.png"
        assert "![Samples of text-to-image](samples/text-to-image.png)" in card.text
        assert ImageChops.difference(Image.open(shown), Image.open(made).convert("RGB")).getbbox() is None

    def test_the_licence_is_the_hubs_word(self, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["export", str(run), "--out", str(tmp_path / "m"), "--license", "apache-2.0"]) == 0
        assert ModelCard.load(tmp_path / "m/README.md").data.license == "apache-2.0"
        capsys.readouterr()
        assert main(["export", str(run), "--out", str(tmp_path / "n"), "--license", "Apache 2"]) == 2
        assert '"Apache 2" is no licence that the hub knows; write it as the hub does' in capsys.readouterr().err
        assert not (tmp_path / "n").exists()

    def test_an_exported_model_keeps_its_facts(self, run: Path, tmp_path: Path) -> None:
        T2XPipeline.from_pretrained(run, device="cpu").save_pretrained(tmp_path / "model")
        (tmp_path / "again").mkdir()
        T2XPipeline.from_pretrained(tmp_path / "model", device="cpu").save_pretrained(tmp_path / "again/model")
        for name in ("README.md", "recipe.yaml", "config.json", "samples/text-to-image.png"):
            assert (tmp_path / "model" / name).read_bytes() == (tmp_path / "again/model" / name).read_bytes()

    def test_what_is_not_known_is_left_out(self, run: Path, tmp_path: Path) -> None:
        """Of a run whose other files are gone or damaged, and of a module that never was in a run."""
        bare = tmp_path / "bare"
        shutil.copytree(run, bare, ignore=shutil.ignore_patterns("tensorboard", "data.json"))
        (bare / "environment.json").write_text("{")
        for image in (bare / "samples").iterdir():
            image.write_bytes(b"\x89PNG no")
        T2XPipeline.from_pretrained(bare, device="cpu").save_pretrained(tmp_path / "one")
        assembly = load_assembly("quickstart", TINY)
        T2XPipeline(assembly, build_module(assembly)).save_pretrained(tmp_path / "two")
        for name in ("one", "two"):
            card = ModelCard.load(tmp_path / name / "README.md")
            assert card.data.eval_results is None
            assert not any(word in card.text for word in ("Scores", "| data of", "| validation", "!["))


def test_the_backbone_opens_by_itself(run: Path, tmp_path: Path) -> None:
    pipeline = T2XPipeline.from_pretrained(run, device="cpu")
    pipeline.save_pretrained(tmp_path)
    alone = PTDiT.from_pretrained(tmp_path)
    assert alone.config == pipeline.module.backbone.config
    expected = pipeline.module.backbone.state_dict()
    assert alone.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in alone.state_dict().items())


def test_push_to_hub_sends_the_same_folder(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []

    class Hub:
        def __init__(self, token: str | None = None) -> None:
            calls.append(("token", token))

        def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> Any:
            calls.append((repo_id, private))
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> str:
            shutil.copytree(folder_path, tmp_path / repo_id)
            return "https://huggingface.co/me/shapes/commit/1"

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    pipeline = T2XPipeline.from_pretrained(run, device="cpu")
    url = pipeline.push_to_hub("me/shapes", license="mit", private=True, token="t")
    assert url.endswith("/commit/1")
    assert calls == [("token", "t"), ("me/shapes", True)]
    card = ModelCard.load(tmp_path / "me/shapes/README.md")
    assert card.data.license == "mit"
    assert 'T2XPipeline.from_pretrained("me/shapes")' in card.text
    again = T2XPipeline.from_pretrained(tmp_path / "me/shapes", device="cpu")
    assert torch.equal(again("a red circle", 3).pixels, pipeline("a red circle", 3).pixels)


def test_it_opens_elsewhere_and_names_no_place_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a model whose VAE and text encoder are folders, one of them that of a whole pipeline, outside of the home."""
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    here = tmp_path / "disk/somebody"
    save_vae(here / "models/pipeline/vae")
    save_text_encoder(here / "models/pipeline/text_encoder")
    (here / "models/pipeline/tokenizer").mkdir()
    for file in (here / "models/pipeline/text_encoder").glob("token*"):
        file.rename(here / "models/pipeline/tokenizer" / file.name)
    where = {"vae/config": "_name_or_path", "text_encoder/config": "_name_or_path"}
    where["tokenizer/tokenizer_config"] = "special_tokens_map_file"
    for file, key in where.items():
        config = here / f"models/pipeline/{file}.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {key: "/mnt/hidden/place"}))
    settings = [
        *(setting for setting in TINY if not setting.startswith(("text_encoders", "tasks"))),
        *("tasks.text-to-image.data.shapes.size=16", "tasks.text-to-image.data.shapes.val_count=6"),
        f"codec={{name: autoencoder, weights: {{folder: {here / 'models/pipeline'}, subfolder: vae, package: null}}}}",
        "text_encoders={minilm: null, t5: {name: transformers, max_tokens: 16, "
        f"weights: {{folder: {here / 'models/pipeline/text_encoder'}}}}}}}",
        f"cache.folder={here / 'cache'}",
    ]
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "text_to_image/latent_quickstart", *settings, "--folder", str(here / "run")]) == 0
    noted = PngInfo()
    noted.add_text("run", str(here))
    sheet = here / "run/samples/text-to-image_0000002.png"
    Image.open(sheet).save(sheet, pnginfo=noted)
    assert main(["export", str(here / "run"), "--out", "given"]) == 0
    assert main(["sample", str(here / "run"), "a red circle", "--out", "before.png"]) == 0

    given = [file for file in Path("given").rglob("*") if file.is_file()]
    assert len(given) > 8
    for file in given:
        content = file.read_bytes()
        assert not any(word in content for word in (b"somebody", str(tmp_path).encode(), b"hidden")), file
    names = [file.relative_to("given").as_posix() for file in given]
    fetched = set(filter_repo_objects([*names, "evil.py", "pytorch_model.bin", "parts/evil.py"], allow_patterns=WANTED))
    assert {name for name in names if name.startswith("parts/")} < fetched
    assert {"model.safetensors", "recipe.yaml"} < fetched < set(names)

    (tmp_path / "disk").rename(tmp_path / "gone")
    Path("given").rename("elsewhere")
    capsys.readouterr()
    assert main(["sample", "elsewhere", "a red circle", "--out", "after.png"]) == 0
    assert ImageChops.difference(Image.open("before.png"), Image.open("after.png")).getbbox() is None
    assert "| `codec` | parts/codec |" in Path("elsewhere/README.md").read_text()


def test_a_lost_sector_of_an_export_is_noticed(run: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), "--out", str(tmp_path / "m")]) == 0
    file = tmp_path / "m/model.safetensors"
    data = bytearray(file.read_bytes())
    middle = (8 + int.from_bytes(data[:8], "little") + len(data)) // 2
    data[middle : middle + 512] = bytes(b ^ 1 for b in data[middle : middle + 512])
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged: .* is not what was written"):
        T2XPipeline.from_pretrained(tmp_path / "m", device="cpu")
