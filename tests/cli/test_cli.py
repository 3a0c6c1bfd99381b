"""The commands, as a person uses and misuses them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from t2x_core.checkpoint import open_checkpoint
from t2x_core.cli.main import main
from t2x_core.runs import find_run
from tests.conftest import TINY


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tiny recipe was trained."""
    folder = tmp_path_factory.mktemp("trained")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["fit", "quickstart", *TINY]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return find_run("quickstart")


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a mistake gives."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("t2x: ")
    return captured.err.removeprefix("t2x: ").rstrip("\n")


def test_sample_writes_one_image_for_each_seed_and_prompt(run, tmp_path, capsys):
    out = tmp_path / "x.png"
    assert main(["sample", "quickstart", "a red circle", "a blue ring", "--num", "2", "--out", str(out)]) == 0
    assert "4 samples" in capsys.readouterr().out
    width, height = Image.open(out).size
    assert width > 2 * 128
    assert height > 2 * 128


def test_sample_reads_prompts_from_a_file_and_is_reproducible(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\n\na green square\n")
    for out in ("one.png", "two.png"):
        assert (
            main(
                [
                    "sample",
                    str(run),
                    "--prompts",
                    str(tmp_path / "prompts.txt"),
                    "--seed",
                    "3",
                    "--out",
                    str(tmp_path / out),
                ]
            )
            == 0
        )
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    alone = ["sample", str(run), "a red circle", "a green square", "--seed", "3", "--out", str(tmp_path / "three.png")]
    assert main(alone) == 0
    assert (tmp_path / "three.png").read_bytes() == (tmp_path / "one.png").read_bytes()


def test_show_prints_a_recipe_that_can_be_used_again(run, tmp_path, capsys):
    assert main(["show", "quickstart", "seed=7"]) == 0
    (tmp_path / "shown.yaml").write_text(capsys.readouterr().out)
    assert main(["show", str(tmp_path / "shown.yaml")]) == 0
    assert capsys.readouterr().out == (tmp_path / "shown.yaml").read_text()
    assert "seed: 7\n" in (tmp_path / "shown.yaml").read_text()


def test_recipes_are_listed(capsys):
    assert main(["recipes"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("quickstart")


def test_plugins_are_listed_with_their_settings_and_none_is_imported():
    code = (
        "import sys; from t2x_core.cli.main import main; main(['plugins']); main(['plugins', 'text-to-image'])\n"
        "print([m for m in ('torch', 't2x_plugins.text_to_image.plugin') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    rows = {line.split("  ")[0]: line for line in lines}
    assert "task" in rows["text-to-image"]
    assert "t2x_plugins/text_to_image/plugin.py" in rows["text-to-image"]
    assert "text encoder" in rows["bytes"]
    assert "    weight: 1.0  # a number, above 0" in lines
    assert lines[-1] == "[]"


def test_a_failed_start_leaves_no_run_behind(run, capsys):
    before = set(run.parent.iterdir())
    refused(["fit", "quickstart", "tasks.text-to-image.data.shapes.size=30"], capsys)
    assert set(run.parent.iterdir()) == before


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("T2X_DEBUG", "1")
    with pytest.raises(ValueError, match="quikstart"):
        main(["fit", "quikstart"])


def test_resume_may_train_longer(run, capsys):
    assert main(["fit", "quickstart", *TINY, "trainer.max_steps=4", "logging.log_every=2", "--resume", str(run)]) == 0
    assert "trained 4 steps" in capsys.readouterr().out


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_saves_says_how_to_go_on_and_does(sent, code, tmp_path):
    settings = [*TINY, "trainer.max_steps=100000", "logging.checkpoint_every=100000", "logging.sample_every=0"]
    command = [sys.executable, "-m", "t2x_core.cli.main", "fit", "quickstart"]
    process = subprocess.Popen([*command, *settings], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/*/checkpoints/best.json")):  # the first validation has been: it trains
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(sent)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code
    (run,) = (tmp_path / "runs" / "quickstart").iterdir()
    assert f"--resume {run.relative_to(tmp_path)}" in out
    steps = int(out.split("saved at step ")[1].split(";")[0])
    settings[settings.index("trainer.max_steps=100000")] = f"trainer.max_steps={steps + 2}"
    again = subprocess.run([*command, *settings, "--resume"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"trained {steps + 2} steps" in again.stdout


def test_the_last_step_is_saved_whatever_the_steps_between_checkpoints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = [*TINY, "logging.checkpoint_every=2", "trainer.max_steps=3"]
    assert main(["fit", "quickstart", *settings, "--folder", "one"]) == 0
    assert open_checkpoint(tmp_path / "one", "last")[1]["global_step"] == 3
    assert "first step done " in capsys.readouterr().out
    assert main(["fit", "quickstart", *settings, "trainer.max_steps=5", "--resume", "one"]) == 0
    assert main(["fit", "quickstart", *settings, "trainer.max_steps=5", "--folder", "whole"]) == 0
    resumed, whole = (open_checkpoint(tmp_path / run, "last")[1] for run in ("one", "whole"))
    assert resumed["global_step"] == whole["global_step"] == 5
    assert resumed["ema"]["updates"] == whole["ema"]["updates"] == 5


def test_export_writes_one_model_that_samples_like_the_run(run, tmp_path, capsys):
    assert main(["export", str(run), "--out", str(tmp_path / "model")]) == 0
    written = ["README.md", "config.json", "model.safetensors", "recipe.yaml", "samples"]
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == written
    for source in (str(run), str(tmp_path / "model")):
        assert main(["sample", source, "a red circle", "--out", str(tmp_path / f"{Path(source).name}.png")]) == 0
    images = [Image.open(tmp_path / f"{name}.png").tobytes() for name in ("model", run.name)]  # whose notes differ
    assert images[0] == images[1]
    assert "is there already" in refused(["export", str(run), "--out", str(tmp_path / "model")], capsys)


def test_a_second_process_is_kept_out_of_a_run(run, capsys):
    code = "import sys, time, pathlib; from t2x_core.training.run_folder import locked\n"
    code += "with locked(pathlib.Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "in\n"
    arguments = ["fit", "quickstart", *TINY, "trainer.max_steps=9", "logging.log_every=2", "--resume", str(run)]
    assert f"is being trained in by process {other.pid} on " in refused(arguments, capsys)
    other.kill()
    other.wait()
