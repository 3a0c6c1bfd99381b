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


def test_blocks_with_another_name_now(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(
        "base: text_to_image/folder\n"
        "watch: {samples: 3, sample_every: 7}\n"
        "tasks: {text-to-image: {data: {pictures: {folder: here, val_count: '${watch.samples}'}}}}\n"
    )
    found = compose(file)
    now = found.root.plain()
    assert (now["logging"]["samples"], now["logging"]["sample_every"]) == (3, 7)
    assert now["tasks"]["text-to-image"]["data"]["images"]["folder"] == "here"
    assert now["tasks"]["text-to-image"]["data"]["images"]["val_count"] == 3
    assert "watch" not in now
    assert "pictures" not in now["tasks"]["text-to-image"]["data"]
    assert found.where("logging.samples") == f"{file}:2"
    assert found.notes == (
        f"watch is now logging ({file}:2)",
        f"tasks.text-to-image.data.pictures is now tasks.text-to-image.data.images ({file}:3)",
    )


def test_blocks_with_another_name_now_on_the_command_line() -> None:
    found = compose("text_to_image/folder", ["watch.samples=3", "tasks.text-to-image.data.pictures.size=32"])
    now = found.root.plain()
    assert now["logging"]["samples"] == 3
    assert now["logging"]["sample_every"] == 2000  # what was inherited stays
    assert now["tasks"]["text-to-image"]["data"]["images"]["size"] == 32
    assert found.notes[0] == "watch is now logging (command line)"


def test_an_old_and_a_new_name_in_one_block_are_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    file.write_text("base: quickstart\nwatch: {samples: 3}\nlogging: {samples: 4}\n")
    assert "watch" in compose(file).root.plain()


def test_moving_shapes_have_a_name_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "base: text_to_video/quickstart\ntasks: {text-to-video: {data: {shapes: {size: 16, pictures: 0.1}}}}\n"
    )
    found = compose(file).root.plain()["tasks"]["text-to-video"]["data"]
    assert found.keys() == {"moving-shapes"}
    own = found["moving-shapes"]
    assert (own["size"], own["images"], own["frames"]) == (16, 0.1, 8)  # what was inherited stays
