"""The kit on the plugins that come with t2x."""

from __future__ import annotations

from typing import ClassVar

import pytest

from t2x_core.cli.main import main
from t2x_core.testing import CodecTests, TaskTests, TextEncoderTests
from t2x_core.testing.run import check, checks_of
from tests.encoders.tiny_models import save_text_encoder, save_vae


class TestIdentity(CodecTests):
    plugin = "identity"


class TestBytes(TextEncoderTests):
    plugin = "bytes"
    settings: ClassVar = {"dim": 16, "depth": 1, "heads": 2}


def images(size: int) -> dict:
    return {"data": {"shapes": {"size": size, "val_count": 12}}}


@pytest.mark.slow
class TestTextToImage(TaskTests):
    plugin = "text-to-image"
    settings: ClassVar = images(16)


@pytest.mark.slow
class TestTextToVideo(TaskTests):
    plugin = "text-to-video"
    settings: ClassVar = {"data": {"moving-shapes": {"size": 16, "frames": 4, "val_count": 12}}}


@pytest.mark.slow
class TestTextToMultiview(TaskTests):
    plugin = "text-to-multiview"
    settings: ClassVar = {"data": {"turntables": {"size": 16, "views": 3, "val_count": 12}}}


def test_a_vae_of_diffusers(tmp_path):
    pytest.importorskip("diffusers")
    save_vae(tmp_path)
    settings = {"weights": {"folder": str(tmp_path)}}
    tests = checks_of("autoencoder", [], settings=settings, round_trip=None, scale=None)
    assert [result for result in check(tests) if result.problem] == []


@pytest.mark.parametrize("model", ["t5", "clip"])
def test_a_text_encoder_of_transformers(model, tmp_path):
    pytest.importorskip("transformers")
    save_text_encoder(tmp_path, model)
    settings = {"weights": {"folder": str(tmp_path)}, "max_tokens": 40}
    assert [result for result in check(checks_of("transformers", [], settings=settings)) if result.problem] == []


def test_the_command_prints_a_line_a_check(capsys):
    assert main(["check-plugin", "identity"]) == 0
    first, *lines, last = capsys.readouterr().out.splitlines()
    assert first.startswith("codec identity, of t2x ")
    assert len(lines) > 12
    assert all(line.startswith("ok      ") for line in lines)
    assert last == "all checks passed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["identiy"], 'no installed plugin brings "identiy"; did you mean "identity"?'),
        (["identity", "size"], 'a setting is key=value, not "size"'),
        (["identity", "--untraind"], '"--untraind" is not understood; did you mean "--untrained"?'),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys):
    assert main(["check-plugin", *arguments]) == 2
    assert capsys.readouterr().err == f"t2x: command line: {message}\n"
