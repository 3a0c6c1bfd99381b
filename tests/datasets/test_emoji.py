"""`t2x data get emoji` on small made archives; nothing is downloaded."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import shlex
import tarfile
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from t2x_core.assembly import load_assembly
from t2x_core.cli.main import main
from t2x_core.datasets import npm
from t2x_core.datasets.archive import members
from t2x_core.datasets.npm import NpmPackage, fetch
from t2x_core.errors import UserError

MINILM_NOT_NEEDED = ["text_encoders.minilm=null", "text_encoders.bytes.dim=16"]
IMAGES = "package/img/twitter/64/"


def row(name: str, short: str, image: str, category: str = "Objects", twitter: bool = True) -> dict[str, Any]:
    variations = {"1F3FB": {"image": image.replace(".png", "-1f3fb.png"), "has_img_twitter": True}}
    return {
        "name": name,
        "short_name": short,
        "image": image,
        "category": category,
        "has_img_twitter": twitter,
        "skin_variations": variations,
    }


ROWS = [
    row("WAVING HAND SIGN", "wave", "1f44b.png", "People & Body"),
    row("Egypt Flag", "flag-eg", "1f1ea-1f1ec.png", "Flags"),
    row("GHOST", "ghost", "1f47b.png"),
    row("ONLY ELSEWHERE", "elsewhere", "1f999.png", twitter=False),
]


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (level, 0, 0, 255)).save(buffer, "PNG")
    return buffer.getvalue()


def package(**changes: bytes) -> dict[str, bytes]:
    """Files of an archive as npm makes it, with skin tones beside."""
    files = {"package/emoji.json": json.dumps(ROWS).encode(), "package/LICENSE": b"The MIT License"}
    for i, image in enumerate(["1f44b", "1f44b-1f3fb", "1f1ea-1f1ec", "1f47b"]):
        files[f"{IMAGES}{image}.png"] = png(10 * i)
    return files | {name.replace("__", "/"): content for name, content in changes.items()}


def pack(file: Path, content: Mapping[str, bytes], *more: tarfile.TarInfo) -> Path:
    with tarfile.open(file, "w:gz") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for member in more:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return file


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_each_emoji_with_its_names_and_the_hashes_of_all_files(tmp_path, capsys):
    archive, out = pack(tmp_path / "a.tgz", package()), tmp_path / "sets" / "emoji"
    assert main(["data", "get", "emoji", "--archive", str(archive), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "3 images" in said
    assert "CC BY 4.0" in said
    assert "MIT" in said
    words = shlex.split(said.split("train ")[1])
    assert words[:3] == ["t2x", "fit", "text_to_image/emoji"]
    recipe = load_assembly(words[2], [words[3], *MINILM_NOT_NEEDED]).recipe
    assert recipe.tasks["text-to-image"].data["images"].folder == out  # type: ignore[attr-defined]
    captions = {file.stem: file.read_text() for file in out.glob("*.txt")}
    assert captions == {"1f44b": "waving hand sign\nwave\n", "1f1ea-1f1ec": "egypt flag\n", "1f47b": "ghost\n"}
    assert {file.stem for file in out.glob("*.png")} == set(captions)  # no skin tones, nothing without a name
    assert (out / "1f47b.png").read_bytes() == png(30)
    lines = dict(reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().splitlines())
    others = [file for file in out.iterdir() if file.name != "SHA256SUMS"]
    assert lines == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in others}
    assert json.loads((out / "ORIGIN.json").read_text())["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert "CC BY 4.0" in (out / "LICENSE").read_text()
    assert [file.name for file in out.parent.iterdir()] == ["emoji"]


def test_the_folder_can_be_trained_on(tmp_path, capsys):
    from t2x_core.data.image_files import list_folder

    archive, out = pack(tmp_path / "a.tgz", package()), tmp_path / "emoji"
    assert main(["data", "get", "emoji", "--archive", str(archive), "--out", str(out)]) == 0
    found = {Path(file.place).name: tuple(file.captions) for file in list_folder(out).files}
    assert found["1f44b.png"] == ("waving hand sign", "wave")
    assert len(found) == 3


def test_names_in_the_archive_lead_nowhere(tmp_path, capsys):
    link = tarfile.TarInfo(f"{IMAGES}1f47c.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    rows = [*ROWS[:3], row("x", "x", "../../../evil.png"), row("y", "y", "/abs.png")]
    content = package(package__emoji_json=b"") | {
        "package/emoji.json": json.dumps(rows).encode(),
        f"{IMAGES}../../../evil.png": png(1),
        f"{IMAGES}/abs.png": png(1),
        "../outside.png": png(1),
        "/outside.png": png(1),
    }
    archive, out = pack(tmp_path / "a.tgz", content, link), tmp_path / "in" / "emoji"
    before = {*tmp_path.iterdir()}
    assert main(["data", "get", "emoji", "--archive", str(archive), "--out", str(out)]) == 0
    assert {*tmp_path.iterdir()} == before | {out.parent}
    assert sorted(file.name for file in out.glob("*.png")) == ["1f1ea-1f1ec.png", "1f44b.png", "1f47b.png"]
    assert not any(file.is_symlink() for file in out.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"package/emoji.json": b"[]"}, "no emoji"),
        ({"package/emoji.json": b'{"a": 1}'}, "not what it should be"),
        ({"package/emoji.json": b"[" * 100_000}, "not what it should be"),
        ({"package/emoji.json": b'[{"name": 1}]'}, "not what it should be"),
        ({"package/emoji.json": json.dumps([row("a", "a", "1f600.png"), *ROWS]).encode()}, "no image for 1 of 4"),
    ],
)
def test_another_archive_gets_one_line_and_leaves_nothing(content, message, tmp_path, capsys):
    archive = pack(tmp_path / "a.tgz", package() | content)
    assert message in refused(
        ["data", "get", "emoji", "--archive", str(archive), "--out", str(tmp_path / "emoji")], capsys
    )
    assert [file.name for file in tmp_path.iterdir()] == ["a.tgz"]


def test_damaged_archives(tmp_path, capsys):
    whole = pack(tmp_path / "a.tgz", package(filler=bytes(range(256)) * 100)).read_bytes()
    wrong = whole[:200] + bytes([whole[200] ^ 0xFF]) + whole[201:]
    for content in (b"", b"no archive", whole[: len(whole) // 2], wrong):
        (tmp_path / "b.tgz").write_bytes(content)
        error = refused(
            ["data", "get", "emoji", "--archive", str(tmp_path / "b.tgz"), "--out", str(tmp_path / "emoji")], capsys
        )
        assert "cannot be read" in error
        assert not (tmp_path / "emoji").exists()
    gone = refused(["data", "get", "emoji", "--archive", str(tmp_path / "c.tgz")], capsys)
    assert "No such file" in gone


def test_an_archive_that_grows_without_end_is_given_up(tmp_path):
    huge = tarfile.TarInfo("package/zeros")
    huge.size = 65 << 20
    with pytest.raises(UserError, match="too large"):
        list(members(pack(tmp_path / "a.tgz", {}, huge), lambda name: True))


def test_what_is_there_is_not_touched(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(npm, "fetch", None)  # found before anything is fetched
    (tmp_path / "emoji").mkdir()
    (tmp_path / "emoji" / "mine.txt").write_text("mine")
    assert "is there already" in refused(["data", "get", "emoji", "--out", str(tmp_path / "emoji")], capsys)
    assert [file.name for file in (tmp_path / "emoji").iterdir()] == ["mine.txt"]
    assert "cannot write" in refused(
        ["data", "get", "emoji", "--archive", str(pack(tmp_path / "a.tgz", package())), "--out", "/dev/null/emoji"],
        capsys,
    )


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NpmPackage]:
    """A server on this machine that holds one package; no npm on the PATH."""
    folder = tmp_path / "registry" / "things" / "-"
    folder.mkdir(parents=True)
    archive = pack(folder / "things-1.0.0.tgz", package())

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "registry")))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(npm, "REGISTRY", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(npm.shutil, "which", lambda name: None)
    monkeypatch.setenv("no_proxy", "*")
    yield NpmPackage("things", "1.0.0", hashlib.sha256(archive.read_bytes()).hexdigest())
    server.shutdown()
    server.server_close()


def test_without_npm_the_archive_comes_from_its_address(registry, tmp_path):
    (tmp_path / "to").mkdir()
    file = fetch(registry, tmp_path / "to")
    assert file.name == "things-1.0.0.tgz"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == registry.sha256


def test_another_archive_than_expected_is_refused(registry, tmp_path):
    other = NpmPackage("things", "1.0.0", "0" * 64)
    with pytest.raises(UserError, match="not the archive that was expected"):
        fetch(other, tmp_path)
    with pytest.raises(UserError, match=r"things-2\.0\.0\.tgz cannot be fetched.*--archive"):
        fetch(NpmPackage("things", "2.0.0", registry.sha256), tmp_path)


def test_npm_packs_and_its_complaint_is_one_line(tmp_path, monkeypatch):
    """What is run, with an `npm` that copies an archive, and with one that fails."""
    source = pack(tmp_path / "source.tgz", package())
    tool = tmp_path / "npm"
    tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\ncp {source} "$4/things-1.0.0.tgz"\n')
    tool.chmod(0o755)
    monkeypatch.setattr(npm.shutil, "which", lambda name: str(tool))
    (tmp_path / "to").mkdir()
    wanted = NpmPackage("things", "1.0.0", hashlib.sha256(source.read_bytes()).hexdigest())
    assert fetch(wanted, tmp_path / "to").read_bytes() == source.read_bytes()
    assert (tmp_path / "asked").read_text().split()[:2] == ["pack", "things@1.0.0"]
    tool.write_text("#!/bin/sh\necho 'npm error network' >&2\necho 'npm error more' >&2\nexit 1\n")
    with pytest.raises(UserError, match="npm error network") as caught:
        fetch(wanted, tmp_path / "to")
    assert "--archive" in str(caught.value)
    tool.write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "to" / "things-1.0.0.tgz").unlink()
    with pytest.raises(UserError, match="wrote no archive"):
        fetch(wanted, tmp_path / "to")


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    from t2x_core.datasets import emoji

    def interrupt(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    archive = pack(tmp_path / "a.tgz", package())
    with monkeypatch.context() as patch:
        patch.setattr(emoji.json, "dumps", interrupt)  # after the images
        with pytest.raises(KeyboardInterrupt):
            emoji.write_emoji(archive, tmp_path / "emoji")
    assert [file.name for file in tmp_path.iterdir()] == ["a.tgz"]


def test_what_there_is_to_get(capsys):
    assert "emoji" in refused(["data", "get", "imagenet"], capsys)
    assert "WHAT" in refused(["data"], capsys)
