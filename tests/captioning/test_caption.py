"""`t2x data caption`: what the model says, row by row, in a manifest that training reads."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.captioning.model import PROMPT, Captioner
from t2x_core.cli.main import main
from tests.captioning.tiny_captioners import CAPTIONERS
from tests.conftest import IMAGES, TINY_IMAGES
from tests.data.shard_set import KINDS, write
from tests.data_check.damaged_set import encoded, picture

pytest.importorskip("transformers")
COUNT, LONGEST = 11, 6


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: save(root / name) for name, save in CAPTIONERS.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images, of which every third has captions."""
    made = tmp_path / "set"
    made.mkdir()
    for i in range(COUNT):
        (made / f"{i:02d}.png").write_bytes(encoded(picture(i)))
        if i % 3 == 0:
            (made / f"{i:02d}.txt").write_text(f"image {i}\nnumber {i}")
    return made


def run_caption(source: Path, model: Path | str, out: Path, *options: str) -> int:
    words = ["data", "caption", str(source), "--model", str(model), "--out", str(out), "--max-tokens", str(LONGEST)]
    return main([*words, "--batch", "3", *options])


def rows_of(file: Path) -> dict[str, dict[str, object]]:
    return {row["path"]: row for row in map(json.loads, file.read_text().splitlines())}


def directly(kind: str, model: Path, image: Image.Image, prompt: str) -> str:
    """What transformers says of one image, by its own page of each model."""
    import transformers as hf

    processor = hf.AutoProcessor.from_pretrained(model)
    if kind == "blip":
        network = hf.BlipForConditionalGeneration.from_pretrained(model)
        inputs = processor(image, prompt, return_tensors="pt") if prompt else processor(image, return_tensors="pt")
        tokens = network.generate(**inputs, do_sample=False, max_new_tokens=LONGEST)
        return processor.decode(tokens[0], skip_special_tokens=True).strip()
    network = hf.LlavaForConditionalGeneration.from_pretrained(model)
    text = f"user : <image>{prompt} assistant : "
    inputs = processor(images=image, text=text, return_tensors="pt")
    tokens = network.generate(**inputs, do_sample=False, max_new_tokens=LONGEST)
    return processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("prompt", [None, "a photo of"])
@pytest.mark.parametrize("kind", list(CAPTIONERS))
def test_captions_are_those_of_transformers(kind: str, prompt: str | None, models, folder: Path, tmp_path) -> None:
    out = tmp_path / "out.jsonl"
    assert run_caption(folder, models[kind], out, *([] if prompt is None else ["--prompt", prompt])) == 0
    rows = rows_of(out)
    assert list(rows) == [f"{i:02d}.png" for i in range(COUNT)]
    asked = prompt if prompt is not None else PROMPT if kind == "llava" else ""
    said = set()
    for i in range(COUNT):
        row = rows[f"{i:02d}.png"]
        if i % 3 == 0:
            assert row == {"path": f"{i:02d}.png", "caption": [f"image {i}", f"number {i}"]} | {
                "captioned_by": None,
                "prompt": None,
            }
            continue
        own = directly(kind, models[kind], picture(i), asked)
        assert row["caption"] == ([own] if own else [])
        assert row["prompt"] == asked
        assert str(row["captioned_by"]).startswith(f"{kind}@")
        said.add(own)
    assert len(said) > 3  # it looks at the images


def test_after_a_kill_the_same_command_goes_on(models, folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert run_caption(folder, models["llava"], whole) == 0
    call, seen = Captioner.__call__, list[int]()

    def stopped(self: Captioner, images: list[Image.Image]) -> list[str]:
        seen.append(len(images))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return call(self, images)

    monkeypatch.setattr(Captioner, "__call__", stopped)
    assert run_caption(folder, models["llava"], out) == 130
    assert "goes on" in capsys.readouterr().out
    assert 3 <= len(rows_of(out)) < COUNT
    with out.open("ab") as stream:
        stream.write(b'{"path": "07.png", "capt')  # as a kill leaves it
    seen[:] = [0] * 5
    assert run_caption(folder, models["llava"], out) == 0
    assert sum(seen) == 7 - 3  # of 7 without captions, 3 were done
    assert out.read_text() == whole.read_text()
    assert run_caption(folder, models["llava"], out) == 0
    assert out.read_text() == whole.read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_trains_on_the_manifest(kind: str, models, tmp_path: Path, capsys) -> None:
    files = {f"{i:02d}.png": (encoded(picture(i)), [f"image {i}"] if i % 2 else []) for i in range(COUNT)}
    files["05.png"] = (b"damaged", [])
    place = next(iter(write(kind, tmp_path / "set", files).values()))
    assert run_caption(Path(str(place)), models["llava"], tmp_path / "out.jsonl") == 0
    lines = capsys.readouterr().out.splitlines()
    words = shlex.split(next(line for line in lines if line.startswith("train")))[3:]
    settings = [f"{IMAGES}.missing_captions=empty", "trainer.global_batch=2"]
    assembly = load_assembly(words[0], [*TINY_IMAGES, *words[1:], *settings])
    module = build_module(assembly, outline=True)
    data = build_data(assembly, module).modules["text-to-image"]
    entries = {entry.name: entry for entry in data.inventory().entries}
    assert len(entries) == COUNT - 1
    data.prepare_data()
    assert len(data.train_source()) + len(data.val_source()) == COUNT - 1
    kept = sorted(entry.captions[0] for entry in entries.values() if entry.captions and "image" in entry.captions[0])
    assert kept == sorted(f"image {i}" for i in (1, 3, 7, 9))
    assert "cannot be read" in "\n".join(lines)


def test_all_replaces_captions_and_needs_none(models, folder: Path, tmp_path: Path, capsys) -> None:
    assert run_caption(folder, models["blip"], tmp_path / "out.jsonl", "--all") == 0
    assert all(row["captioned_by"] for row in rows_of(tmp_path / "out.jsonl").values())
    listed = folder / "list.csv"
    listed.write_text("path\n" + "\n".join(f"{i:02d}.png" for i in range(COUNT)))
    assert run_caption(listed, models["blip"], tmp_path / "listed.jsonl") == 2
    assert "--all" in capsys.readouterr().err
    assert run_caption(listed, models["blip"], tmp_path / "listed.jsonl", "--all") == 0
    assert rows_of(tmp_path / "listed.jsonl") == rows_of(tmp_path / "out.jsonl")


def test_mistakes_are_one_line(models, folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.jsonl"
    assert run_caption(folder, models["blip"], out) == 0
    before = out.read_text()
    pickled, coded = shutil.copytree(models["blip"], tmp_path / "pickled"), tmp_path / "coded"
    torch.save({}, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    shutil.copytree(models["blip"], coded)
    config = json.loads((coded / "config.json").read_text())
    config |= {
        "model_type": "mine",
        "auto_map": {"AutoModelForImageTextToText": "mine.Mine", "AutoConfig": "mine.Mine"},
    }
    (coded / "config.json").write_text(json.dumps(config))
    (coded / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / "mine.jsonl").write_text('{"path": "a.png", "caption": "mine"}\n')
    (tmp_path / "empty").mkdir()
    for source, model, file, options, said in (
        (folder, models["llava"], out, [], "another --out"),
        (folder, models["blip"], out, ["--prompt", "a photo of"], "another --out"),
        (folder, models["blip"], tmp_path / "mine.jsonl", [], "no line that captioning wrote"),
        (folder, models["blip"], tmp_path / "x.csv", [], "must end in .jsonl"),
        (folder, models["blip"], tmp_path / "x.jsonl", ["--device", "gpu"], "cannot be put on gpu"),
        (folder, pickled, tmp_path / "x.jsonl", [], "holds no model that captions images"),
        (folder, coded, tmp_path / "x.jsonl", [], "holds no model that captions images"),
        (tmp_path / "nowhere", models["blip"], tmp_path / "x.jsonl", [], "there is no file or folder"),
        (tmp_path / "empty", models["blip"], tmp_path / "x.jsonl", [], "there are no images"),
    ):
        assert run_caption(source, model, file, *options) == 2
        error = capsys.readouterr().err
        assert said in error
        assert len(error.strip().splitlines()) == 1
    assert out.read_text() == before
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "x.jsonl").exists()


def test_the_hub_s_cache_is_read_offline_and_its_commit_noted(models, folder, tmp_path, monkeypatch, capsys) -> None:
    from huggingface_hub import constants

    commit, repository = "0123456789abcdef0123456789abcdef01234567", tmp_path / "hub" / "models--me--tiny"
    shutil.copytree(models["blip"], repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    out = tmp_path / "out.jsonl"
    assert run_caption(folder, "me/tiny", out) == 0
    assert {row["captioned_by"] for row in rows_of(out).values()} == {None, f"me/tiny@{commit}"}
    assert run_caption(folder, "me/other", tmp_path / "x.jsonl") == 2
    assert "me/other cannot be fetched" in capsys.readouterr().err
