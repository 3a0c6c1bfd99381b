"""Keys of the version before are read as what they are called now."""

from __future__ import annotations

from pathlib import Path

from t2x_core.recipe import compose


def test_the_only_text_encoder_of_before(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("base: quickstart\nseed: 3\ntext_encoder: {dim: 32, depth: 0}\n")
    found = compose(file)
    assert found.root.plain()["text_encoders"] == {"bytes": {"dim": 32, "depth": 0, "max_words": 20}}
    assert found.where("text_encoders.bytes.dim") == f"{file}:3"
    assert found.notes == (f"text_encoder is now text_encoders.bytes ({file}:3)",)


def test_another_one_takes_the_place_of_the_inherited(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("base: quickstart\ntext_encoder: {name: other}\n")
    assert compose(file).root.plain()["text_encoders"] == {"bytes": None, "other": {"name": "other"}}


def test_on_the_command_line() -> None:
    found = compose("quickstart", ["text_encoder.dim=64"]).root.plain()["text_encoders"]
    assert found == {"bytes": {"dim": 64, "depth": 0, "max_words": 20}}
    assert compose("quickstart", ["text_encoder=null"]).root.plain()["text_encoders"] is None


def test_a_mistake_is_told_by_the_name_that_was_written(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("base: quickstart\ntext_encoder: 5\n")
    assert compose(file).root.plain()["text_encoder"] == 5
