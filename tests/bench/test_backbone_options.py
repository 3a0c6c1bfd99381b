"""What `t2x bench backbone` is asked for, and what it refuses in one line before torch is imported."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from t2x_core.bench.backbone.options import Request, add_arguments, missing_pixart, read, read_clips, read_tokens
from t2x_core.cli.main import main


def asked(*arguments: str) -> Request:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return read(parser.parse_args(arguments))


def test_what_is_not_said_depends_on_the_device():
    cpu, gpu = asked().on(cuda=False), asked().on(cuda=True)
    assert (cpu.device, cpu.precision, cpu.compiled) == ("cpu", "32-true", (False,))
    assert (gpu.device, gpu.precision, gpu.compiled) == ("cuda", "bf16-mixed", (False, True))
    assert cpu.grids == ((1, 16, 16), (1, 32, 32), (1, 64, 64), (16, 8, 8))
    assert gpu.grids == ((1, 16, 16), (1, 32, 32), (1, 64, 64), (1, 128, 128), (16, 16, 16), (64, 16, 16))
    assert asked("--device", "cpu").on(cuda=True) == cpu


def test_who_names_images_or_clips_gets_these_alone():
    assert asked("--tokens", "64,16").on(False).grids == ((1, 8, 8), (1, 4, 4))
    assert asked("--clips", "2x4x8").on(False).grids == ((2, 4, 8),)


def test_the_heads_are_those_of_the_presets():
    assert asked().options.heads == 12
    assert asked("--width", "1152").options.heads == 16


def test_each_variant_is_asked_for_what_it_can_do():
    options = asked("--tokens", "16", "--clips", "2x4x4", "--variants", "fused,folded").on(False)
    assert options.cells() == [(grid, way) for grid in options.grids for way in ("forward", "backward")]
    assert options.variants_of((1, 4, 4), "forward") == ("fused", "folded")
    assert options.variants_of((1, 4, 4), "backward") == ("fused",)


@pytest.mark.skipif(missing_pixart(), reason="diffusers is not installed")
def test_pixart_knows_square_images_only():
    options = asked("--tokens", "16", "--clips", "2x4x4", "--variants", "pixart").on(False)
    assert {grid for grid, _ in options.cells()} == {(1, 4, 4)}


def test_shapes_are_read():
    assert read_tokens(" 16, 1024") == ((1, 4, 4), (1, 32, 32))
    assert read_clips("16x8x4,1x2x2") == ((16, 8, 4), (1, 2, 2))


MISTAKES = {
    "--tokens 1000": '--tokens must be square numbers from 4, such as 256,1024, not "1000"',
    "--tokens 1": '--tokens must be square numbers from 4, such as 256,1024, not "1"',
    "--clips 16x8": '--clips must be frames x rows x columns, such as 16x8x8, not "16x8"',
    "--clips 0x8x8": '--clips must be frames x rows x columns, such as 16x8x8, not "0x8x8"',
    "--clips 2x4x-4": '--clips must be frames x rows x columns, such as 16x8x8, not "2x4x-4"',
    "--width 40": "--width must be a multiple of 16 and of the number of heads, 1, not 40",
    "--width 64 --heads 3": "--width must be a multiple of 16 and of the number of heads, 3, not 64",
    "--width wide": "argument --width: invalid int value: 'wide'; `t2x bench backbone --help` shows what there is",
    "--depth 0": "--depth must be at least 1, not 0",
    "--rounds 2": "--rounds must be at least 3, not 2",
    "--threads 0": "--threads must be at least 1, not 0",
    "--variants fsed": '--variants: there is no "fsed"; did you mean "fused"?',
    "--passes backwards": '--passes: there is no "backwards"; did you mean "backward"?',
    "--variants ,": "--variants names nothing; of proxy, fused, dense, released, folded, pixart",
    "--variants folded --passes backward": "nothing can be measured; pixart knows no clips, what is folded has no "
    "backward pass",
    "--json nowhere/x.json": "cannot write nowhere/x.json: No such file or directory",
    "--from nowhere.json": "cannot read nowhere.json: No such file or directory",
}


@pytest.mark.parametrize("options", MISTAKES)
def test_a_mistake_is_one_line(options, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "backbone", *options.split()]) == 2
    assert capsys.readouterr().err == f"t2x: command line: {MISTAKES[options]}\n"


def test_a_package_that_is_missing_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr("t2x_core.bench.backbone.options.find_spec", lambda name: None)
    assert main(["bench", "backbone", "--variants", "pixart"]) == 2
    assert capsys.readouterr().err == (
        't2x: command line: --variants pixart needs the package diffusers; pip install "t2x[bench]"\n'
    )


def test_a_gpu_that_is_not_there_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["bench", "backbone", "--device", "cuda"]) == 2
    said = "--device cuda: there is no GPU that torch can use; leave it out to measure the CPU"
    assert capsys.readouterr().err == f"t2x: command line: {said}\n"


def test_mistakes_are_found_without_torch():
    code = (
        "import sys; from t2x_core.cli.main import main\n"
        "code = main(['bench', 'backbone', '--tokens', '1000'])\n"
        "print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]


def test_nothing_but_torch_is_needed():
    code = (
        "import sys, t2x_core.bench.backbone.measure, t2x_core.bench.backbone.attention_cost\n"
        "import t2x_core.bench.backbone.report\n"
        "print([m for m in ('lightning', 'omegaconf', 'torchvision', 'timm', 'diffusers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
