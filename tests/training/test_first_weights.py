"""A run that begins with another one's weights."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.checkpoint import checkpoints_of, materialize, read_checkpoint
from t2x_core.cli.main import main
from t2x_core.generation import T2XPipeline
from t2x_core.initial import match, open_start
from t2x_core.recipe import compose, to_plain
from t2x_core.training import fit, run_folder
from tests.conftest import TINY
from tests.training import spoilt
from tests.training.test_ranks import assert_same, devices, traced

ROOT = Path(__file__).parents[2]
LONGER = ("trainer.max_steps=4", "seed=5")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run of two steps."""
    return trained(tmp_path_factory.mktemp("other") / "run")


def trained(folder, *settings):
    assembly = load_assembly("quickstart", [*TINY, *settings])
    folder.mkdir(parents=True)
    run_folder.write_run(folder, to_plain(assembly.recipe))
    module = build_module(assembly)
    fit(assembly, module, build_data(assembly, module), folder)
    return folder


def averages(run):
    return materialize(read_checkpoint(checkpoints_of(run)[-1])["ema"]["weights"])


def started(run, *settings):
    """A new module and its start from `run`."""
    assembly = load_assembly("quickstart", [*TINY, "seed=5", *settings])
    module = build_module(assembly)
    return module, open_start(assembly, module, str(run))


def test_all_that_has_a_name_and_a_shape_in_common_is_loaded(other):
    module, start = started(other)
    start.load(module)
    average = averages(other)
    for name, p in module.stored().items():
        assert torch.equal(p, average.pop(name))
    assert not average
    (line,) = start.describe()
    assert line.startswith(f"weights    {checkpoints_of(other)[-1]}: averaged weights, ")


def test_what_does_not_fit_is_named_with_its_shapes_and_left_as_it_was(other):
    module, start = started(other, "backbone.patch_size=2", "backbone.depth=3", "diffusion.prediction=velocity")
    before = {name: p.detach().clone() for name, p in module.stored().items()}
    start.load(module)
    said = "\n".join(start.describe())
    assert "other size backbone.patch_embedding.weight (32, 12) here, (32, 48) there" in said
    assert "fresh      backbone.blocks.*." in said
    assert "but        backbone.depth is 3 here, 2 there" in said
    assert "but        diffusion.prediction is velocity here, clean there" in said
    average = averages(other)
    for name, p in module.stored().items():
        assert torch.equal(p, average[name] if name in start.match.loaded else before[name])
    assert {n for n in before if ".blocks.2." in n} <= set(start.match.fresh)
    _, less = started(other, "backbone.depth=1")
    assert "left out   backbone.blocks.*." in "\n".join(less.describe())


def test_an_adapter_takes_what_one_other_task_alone_has():
    own = {"adapters.c.null": (3,), "adapters.c.size": (4,), "adapters.c.deep.w": (2, 2), "backbone.null": (3,)}
    theirs = {"adapters.a.null": (3,), "adapters.b.null": (3,), "adapters.b.deep.w": (2, 2), "adapters.a.size": (5,)}
    found = match(own, theirs)
    assert found.loaded == {"adapters.c.deep.w": "adapters.b.deep.w"}
    assert found.fresh == ["adapters.c.null", "adapters.c.size", "backbone.null"]
    assert sorted(found.left_out) == ["adapters.a.null", "adapters.a.size", "adapters.b.null"]
    assert match(own, {"adapters.a.null": (3,), "adapters.b.null": (9,)}).loaded == {
        "adapters.c.null": "adapters.a.null"
    }


def test_an_exported_folder_and_a_checkpoint_do_as_well(other, tmp_path):
    T2XPipeline.from_pretrained(other, device="cpu").save_pretrained(tmp_path / "model")
    for place in (tmp_path / "model", checkpoints_of(other)[-1]):
        module, start = started(place)
        start.load(module)
        assert start.place == place
        for name, weight in averages(other).items():
            assert torch.equal(module.get_parameter(name), weight)


def test_weights_and_average_begin_with_what_was_loaded(other, tmp_path):
    """At a learning rate of nothing they stay what they are."""
    run = trained(tmp_path / "run", f"backbone.weights={other}", "seed=5", "optimizer.lr=1e-30")
    saved = read_checkpoint(checkpoints_of(run)[-1])
    expected = averages(other)
    for weights in (saved["state_dict"], saved["ema"]["weights"]):
        weights = materialize(weights)
        assert weights.keys() == expected.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(weight, expected[name], atol=1e-7, rtol=0)


def test_the_command_pins_the_checkpoint_and_goes_on_without_it(other, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(other, "runs/quickstart/first")
    settings = [*TINY, *LONGER, "backbone.weights=quickstart"]
    assert main(["fit", "quickstart", *settings, "--dry-run"]) == 0
    pinned = tmp_path / "runs/quickstart/first/checkpoints/step_00000002"
    assert f"weights    {pinned}: averaged weights" in capsys.readouterr().out
    assert main(["fit", "quickstart", *settings, "--folder", "whole"]) == 0
    assert compose("whole/recipe.yaml").find("backbone.weights").value == str(pinned)
    assert f"weights    {pinned}: averaged weights" in (tmp_path / "whole/log.txt").read_text()

    shutil.copytree("whole", "half")
    shutil.rmtree("half/checkpoints/step_00000004")
    shutil.rmtree("runs")
    assert main(["fit", "quickstart", *settings, "--resume", "half"]) == 0
    whole, half = (read_checkpoint(checkpoints_of(tmp_path / run)[-1]) for run in ("whole", "half"))
    for name, weight in whole["state_dict"].items():
        assert torch.equal(weight.full(), half["state_dict"][name].full())
    assert "not read again" in (tmp_path / "half/log.txt").read_text()


def test_what_is_loaded_and_frozen_is_in_the_run(other, tmp_path):
    freeze = "optimizer.freeze=[text_encoders.*]"
    run = trained(tmp_path / "run", f"backbone.weights={other}", "seed=5", freeze)
    expected = averages(other)
    saved = read_checkpoint(checkpoints_of(run)[-1])
    assert not any(name.startswith("text_encoders.") for name in saved["ema"]["weights"])
    pipeline = T2XPipeline.from_pretrained(run, device="cpu")
    pipeline.save_pretrained(tmp_path / "model")
    module, start = started(tmp_path / "model")
    start.load(module)
    for name, p in pipeline.module.named_parameters():
        if name.startswith("text_encoders."):
            assert torch.equal(p, expected[name])
            assert torch.equal(module.get_parameter(name), expected[name])


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_two_ranks_begin_alike(strategy, other, tmp_path):
    settings = (f"backbone.weights={other}", "optimizer.freeze=[text_encoders.*, backbone.blocks.0.*]")
    one = traced(tmp_path / "one", *settings)
    assert_same(traced(tmp_path / "two", *devices(2, strategy), *settings), one)
    frozen = [
        T2XPipeline.from_pretrained(tmp_path / n / "run", device="cpu").module.state_dict() for n in ("one", "two")
    ]
    expected = averages(other)
    for name, weight in expected.items():
        if name.startswith(("text_encoders.", "backbone.blocks.0.")):
            assert all(torch.equal(state[name], weight) for state in frozen)


def test_a_roll_back_under_fsdp2_goes_to_the_runs_own_weights(other, tmp_path):
    """The model is built anew for it, and what is frozen has the values that `backbone.weights` gave once."""
    settings = [
        *(f"backbone.weights={other}", "seed=5", "optimizer.freeze=[text_encoders.*, backbone.blocks.0.*]"),
        *("guard.max_skips=3", "logging.checkpoint_every=5", "trainer.max_steps=12"),
    ]
    spoilt.train(tmp_path / "one", spoilt.nan_in(range(6, 12)), *settings)
    command = [sys.executable, "-m", "tests.training.spoilt", tmp_path / "two", "6", "11", "0"]
    done = subprocess.run(
        [*command, *settings, *devices(2, "fsdp2")], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in spoilt.report(tmp_path / "two")] == [7, 8, 9, 10]
    one, two = (read_checkpoint(checkpoints_of(tmp_path / run)[-1]) for run in ("one", "two"))
    assert one["MixedData"] == two["MixedData"] == {"attempt": 1}
    assert one["global_step"] == two["global_step"] == 12
    expected, weights = materialize(one["state_dict"]), materialize(two["state_dict"])
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], atol=1e-4, rtol=0)
        if name.startswith(("text_encoders.", "backbone.blocks.0.")):
            assert torch.equal(weight, averages(other)[name])


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(other, tmp_path):
    """From the very checkpoint, though the name stands for a newer run by then."""
    shutil.copytree(other, tmp_path / "runs/quickstart/first")
    fit = [
        sys.executable,
        "-m",
        "t2x_core.cli.main",
        "fit",
        "quickstart",
        *TINY,
        "seed=5",
        "backbone.weights=quickstart",
    ]
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 300}
    constant = ["optimizer.schedule=constant", "logging.checkpoint_every=9999", "logging.validate_every=9999"]
    done = subprocess.run([*fit, *constant, "trainer.max_steps=4", "--folder", "whole"], **options)
    assert done.returncode == 0, done.stderr

    process = subprocess.Popen(
        [*fit, *constant, "trainer.max_steps=9999", "logging.sample_every=0", "--folder", "killed"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    log, deadline = tmp_path / "killed/log.txt", time.monotonic() + 60
    try:
        while not (log.exists() and "first step done" in log.read_text()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert not checkpoints_of(tmp_path / "killed")

    shutil.copytree(tmp_path / "whole", tmp_path / "runs/quickstart/second")
    done = subprocess.run([*fit, *constant, "trainer.max_steps=4", "--resume", "killed"], **options)
    assert done.returncode == 0, done.stderr
    assert (
        f"weights    {tmp_path}/runs/quickstart/first/checkpoints/step_00000002"
        in log.read_text().split("first step done")[1]
    )
    whole, killed = (read_checkpoint(checkpoints_of(tmp_path / run)[-1]) for run in ("whole", "killed"))
    expected = materialize(whole["state_dict"])
    for name, weight in materialize(killed["state_dict"]).items():
        assert torch.equal(weight, expected[name])
