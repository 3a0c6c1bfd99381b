"""Command lines that nobody would type on purpose, through the real command: one line and exit code 2, or success."""

from __future__ import annotations

import os
import shlex
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from t2x_core.cli.main import main
from tests.cli.mistakes import RUN, VALID

ESC = "\x1b]0;owned\x07"
LONG = "x" * 5000
REFUSED = [
    ["--nope"],
    [""],
    [ESC],
    [LONG],
    ["show"],
    ["show", ""],
    ["show", ESC],
    ["show", LONG],
    ["show", "a\0b"],
    ["show", "~nosuchuser/x.yaml"],
    ["show", "/dev/zero"],
    ["show", "pipe.yaml"],
    ["show", "loop.yaml"],
    ["show", "../../../../etc/passwd"],
    ["show", "undecodable\udcff.yaml"],
    ["show", "escape.yaml"],
    ["show", "mine.yaml", ESC],
    ["show", "mine.yaml", f"{ESC}=1"],
    ["show", "mine.yaml", "=".join([LONG] * 3)],
    ["show", "mine.yaml", ".".join("a" * 5000) + "=1"],
    ["show", "mine.yaml", "seed=" + "9" * 5000],
    ["show", "mine.yaml", "seed=" + "[" * 5000],
    ["show", "mine.yaml", "seed=1e400"],
    ["show", "mine.yaml", "seed=18446744073709551616"],
    ["show", "mine.yaml", "seed=½"],
    ["show", "mine.yaml", "seed=٣"],
    ["show", "mine.yaml", "seed=\udcff"],
    ["show", "mine.yaml", "optimizer.lr=" + "9" * 400],
    ["show", "mine.yaml", "optimizer.lr=1e39"],
    ["show", "mine.yaml", "optimizer.lr=1e-46"],
    ["show", "mine.yaml", "optimizer.lr=.nan"],
    ["show", "mine.yaml", "optimizer.betas=[.nan, .inf]"],
    ["show", "mine.yaml", "logging.runs_dir=~nosuchuser/runs"],
    ["show", "mine.yaml", "logging.runs_dir=" + LONG],
    ["show", "mine.yaml", "backbone.weights=\udcff"],
    ["show", "mine.yaml", "seed=${seed}"],
    ["show", "mine.yaml", "seed=" + "${seed}" * 2000],
    ["show", "mine.yaml", "codec.name=" + ESC],
    ["show", "mine.yaml", f"tasks.{ESC}={{}}"],
    ["show", "mine.yaml", "--seed=3"],
    ["plugins", ESC],
    ["plugins", LONG],
    ["sample"],
    ["sample", RUN],
    ["sample", RUN, "\udcff"],
    ["sample", RUN, "--prompts", "pipe\0"],
    ["sample", RUN, "--prompts", "/dev/zero"],
    ["sample", RUN, "--prompts", "."],
    ["sample", RUN, "--prompts", "blank.txt"],
    ["sample", RUN, "--prompts", "~nosuchuser/x"],
    ["sample", RUN, "p", "--num", "-1"],
    ["sample", RUN, "p", "--num", "9" * 5000],
    ["sample", RUN, "p", "--num", "1000000"],
    ["sample", RUN, "p", "--num", "1.5"],
    ["sample", RUN, "p", "--steps", "0"],
    ["sample", RUN, "p", "--steps", "1000000000000"],
    ["sample", RUN, "p", "--guidance", "nan"],
    ["sample", RUN, "p", "--guidance", "inf"],
    ["sample", RUN, "p", "--guidance", "-1"],
    ["sample", RUN, "p", "--guidance", "1e39"],
    ["sample", RUN, "p", "--seed", str(2**70)],
    ["sample", RUN, "p", "--seed", "-1"],
    ["sample", RUN, "p", "--threads", "0"],
    ["sample", RUN, "p", "--batch-size", "0"],
    ["sample", "--again", "absent.png"],
    ["sample", "--again", "mine.yaml"],
    ["sample", "--again", "/dev/zero"],
    ["sample", "--again", "pipe.png"],
    ["sample", RUN, "--again", "x.png"],
    ["sample", RUN, "p", "--size", "0"],
    ["sample", RUN, "p", "--size", "17x99999999"],
    ["sample", RUN, "p", "--precision", "fp16", "--device", "cpu"],
    ["sample", RUN, "p", "--out", "pipe.png/"],
    ["sample", "hf://", "p"],
    ["sample", RUN, "p", "--checkpoint", "²"],
    ["sample", RUN, "p", "--checkpoint", "9" * 5000],
    ["sample", RUN, "p", "--set", "x"],
    ["sample", RUN, "p", "--set", "=1"],
    ["sample", RUN, "p", "--nope"],
    *(["sample", RUN, "p", "--out", f"x{ending}"] for ending in ("", ".mpg", ".xyz", ".h5", ".xbm", ".emf", ESC)),
    ["sample", RUN, "p", "--out", LONG + ".png"],
    ["sample", RUN, "p", "--out", "no/such/x.png"],
    ["sample", RUN, "p", "--out", "mine.yaml/x.png"],
    ["sample", RUN, "p", "--out", "/proc/x.png"],
    ["sample", RUN, "p", "--out", "pipe.png"],
    ["sample", RUN, "p", "--out", "~nosuchuser/x.png"],
    ["sample", LONG, "p"],
    ["sample", "x/" * 200, "p"],
    ["sample", "~nosuchuser", "p"],
    ["sample", ESC, "p"],
    ["sample", "a\0b", "p"],
    ["export", LONG, "--out", "x"],
    ["export", RUN, "--out", LONG],
    ["fit", "mine.yaml", "backbone.weights=" + LONG],
    ["fit", "mine.yaml", "--folder", LONG],
    ["fit", "mine.yaml", "--folder", "~nosuchuser/x"],
    ["replay", LONG, "1"],
    ["replay", RUN, "9" * 5000],
]
"""None of them needs more than the recipe to be found out."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the recipe, a run of it that has trained, and strange files."""
    folder = tmp_path_factory.mktemp("nasty")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "mine.yaml").write_text(VALID)
        (folder / "escape.yaml").write_text('base: mine.yaml\n"\\e[2Jseeed\\u202e": 3\n')
        (folder / "blank.txt").write_bytes(b"\xef\xbb\xbf\n \r\n")
        (folder / "loop.yaml").symlink_to("loop.yaml")
        os.mkfifo(folder / "pipe.yaml")
        os.mkfifo(folder / "pipe.png")
        assert main(["fit", "mine.yaml", "--folder", RUN]) == 0
        yield folder


def shown(arguments: list[str]) -> str:
    return ascii(shlex.join(arguments))[:60]


@pytest.mark.parametrize("arguments", REFUSED, ids=shown)
def test_one_line(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.process_time()
    code = main(arguments)
    said = capsys.readouterr()
    assert code == 2, said
    assert said.out == ""
    line, end = said.err[:-1], said.err[-1:]
    assert end == "\n"
    assert line.startswith("t2x: ")
    assert not {unicodedata.category(letter) for letter in line} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert len(line) < 2000
    assert time.process_time() - began < 20  # not a measure of speed: it does not hang


@pytest.mark.parametrize(
    "arguments",
    [
        ["--set", "{key}", "a red circle"],
        ["a red circle", "--set", "{key}"],
        ["--num", "1", "a red circle", "--seed", "3", "a blue ring"],
        ["--num", "1", "--", "-5"],
        ["a red circle", "--threads", "1", "-5 degrees"],
    ],
    ids=shown,
)
def test_prompts_may_stand_anywhere(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = "--set" in arguments  # this task has nothing to set, which is found where the settings are checked
    filled = [word.format(key="no_such_key=1") for word in arguments]
    assert main(["sample", RUN, "--out", "x.png", *filled]) == (2 if refused else 0)
    said = capsys.readouterr()
    if refused:
        assert 'unknown key "tasks.text-to-image.sampling' in said.err
    else:
        assert ("1 sample " if "--" in arguments else "2 samples ") in said.out


def test_sampling_heeds_threads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    assert main(["sample", RUN, "a red circle", "--out", "x.png"]) == 0
    assert main(["sample", RUN, "a red circle", "--out", "x.png", "--threads", "3"]) == 0
    assert counts == [1, 3]  # the recipe says 1


def test_a_home_folder_in_options(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbfa red circle\r\na blue ring")
    assert main(["sample", RUN, "--prompts", "~/prompts.txt", "--out", "~/x.png"]) == 0
    assert main(["sample", RUN, "a red circle", "a blue ring", "--out", "~/y.png"]) == 0
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()
    assert not (folder / "~").exists()
