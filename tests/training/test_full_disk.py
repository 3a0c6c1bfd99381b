"""A disk that is full: one line, nothing half-written under a final name, and training goes on where it can."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from t2x_core.cli.bench.output import write_json
from t2x_core.cli.main import main
from t2x_core.errors import UserError
from t2x_core.generation import T2XPipeline
from t2x_core.paths import home_as_tilde, user_path
from t2x_core.plain_files import write_whole, written_whole
from t2x_core.rendering import save, save_all
from t2x_core.runs import MODEL_FILE, RECIPE_FILE
from t2x_core.types import RenderedSamples
from tests.conftest import IMAGES, TINY, TINY_IMAGES
from tests.data.image_set import write_good

Limit = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def largest() -> Limit:
    """Inside, no file may grow beyond so many bytes; writing more fails as on a full disk."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["fit", "quickstart", *TINY, "--folder", str(folder)]) == 0
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_file_is_whole_or_as_it_was(tmp_path, largest):
    file = tmp_path / "a.json"
    write_whole(file, "before")
    with largest(1000), pytest.raises(OSError, match="File too large"):
        write_whole(file, "x" * 2000)
    assert (file.read_text(), files(tmp_path)) == ("before", {"a.json"})
    link = tmp_path / "link.json"
    link.symlink_to("a.json")
    write_whole(link, "after")
    assert (link.is_symlink(), file.read_text()) == (True, "after")
    with suppress(KeyboardInterrupt), written_whole(file) as beside:
        beside.write_text("half")
        raise KeyboardInterrupt
    assert (file.read_text(), files(tmp_path)) == ("after", {"a.json", "link.json"})


@pytest.mark.parametrize("name", ["x.png", "x.gif", "x.mp4", "x.jpg", "x.webp"])
def test_an_image_that_does_not_fit_is_one_line_and_leaves_what_was_there(tmp_path, largest, name):
    noise = torch.randint(256, (4, 64, 64, 3), dtype=torch.uint8)
    rendered = RenderedSamples(noise, 8.0, still=noise[0])
    (tmp_path / name).write_bytes(b"before")
    with largest(2000), pytest.raises(UserError) as error:
        save(rendered, tmp_path / name)
    assert str(error.value).startswith(f"cannot write {tmp_path / name}: ")
    assert "File too large" in str(error.value)
    assert (files(tmp_path), (tmp_path / name).read_bytes()) == ({name}, b"before")
    save(rendered, tmp_path / name)
    assert (tmp_path / name).stat().st_size > 2000


def test_an_export_is_whole_or_not_there(run, tmp_path, largest, capsys):
    (tmp_path / "empty").mkdir()
    for folder in ("new", "empty"):
        with largest(20_000):
            assert main(["export", str(run), "--out", str(tmp_path / folder)]) == 2
        said = capsys.readouterr().err
        assert said == f"t2x: command line: cannot write {tmp_path / folder}: File too large\n"
        assert files(tmp_path) == {"empty"}
    assert main(["export", str(run), "--out", str(tmp_path / "new")]) == 0
    images = {"samples", "samples/text-to-image.png"}
    assert files(tmp_path / "new") == {MODEL_FILE, RECIPE_FILE, "README.md", "config.json", *images}
    T2XPipeline.from_pretrained(tmp_path / "new")


def test_a_sample_and_measurements_that_do_not_fit_are_one_line(run, tmp_path, largest, capsys):
    with largest(500):
        assert main(["sample", str(run), "a red circle", "--out", str(tmp_path / "x.png")]) == 2
        said = capsys.readouterr().err
        assert said == f"t2x: cannot write {tmp_path / 'x.png'}: File too large\n"
        assert main(["replay", str(run), "1", "--out", str(tmp_path / "x.png")]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        with pytest.raises(UserError, match=r"cannot write .*x\.json: File too large"):
            write_json(tmp_path / "x.json", {"times": list(range(1000))})
    assert not files(tmp_path)


def test_training_goes_on_without_samples_and_tensorboard(tmp_path, largest, monkeypatch, capsys):
    """What is not needed to go on may not fit; checkpoints do."""

    def without_room(*arguments: Any) -> object:
        with largest(100):
            return save_all(*arguments)

    monkeypatch.setattr("t2x_core.training.callbacks.sampling.save_all", without_room)
    full = property(lambda self: Path("/dev/full"), lambda self, file: None)
    monkeypatch.setattr("t2x_core.training.event_file.EventFile.file", full, raising=False)
    assert main(["fit", "quickstart", *TINY, "--folder", str(tmp_path / "run")]) == 0
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("samples are not kept: cannot write") == 1
    assert log.count("cannot be written (No space left on device): training goes on") == 1
    assert (tmp_path / "run" / "finished.json").exists()
    assert not list((tmp_path / "run" / "samples").iterdir())


def test_an_export_says_nothing_of_where_it_was_trained(tmp_path, monkeypatch, capsys):
    """Neither the folders of data and runs nor the name in one's home, in no file of it; and it samples elsewhere."""
    home = tmp_path / "home" / "somebody"
    write_good(home / "private" / "photos", 28)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    settings = (*TINY_IMAGES, f"{IMAGES}.folder=private/photos", "trainer.workers=0", "trainer.max_steps=1")
    assert main(["fit", "text_to_image/folder", *settings, "--folder", "one"]) == 0
    assert main(["fit", "text_to_image/folder", *settings, "backbone.weights=one", "--folder", "two"]) == 0
    assert main(["export", "two", "--out", str(tmp_path / "given")]) == 0
    for file in (tmp_path / "given").rglob("*.*"):
        content = file.read_bytes()
        assert not any(word in content for word in (b"somebody", b"private", str(tmp_path).encode(), b"step_0000"))
    (tmp_path / "home").rename(tmp_path / "gone")
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "given", "a red circle"]) == 0


def test_a_home_folder_is_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home_as_tilde(tmp_path / "vae") == "~/vae"
    assert user_path(home_as_tilde(tmp_path / "vae")) == tmp_path / "vae"
    assert home_as_tilde(f"{tmp_path}x/vae") == f"{tmp_path}x/vae"
    assert home_as_tilde("vae") == "vae"
