"""A resumed run knows whether its samples are the same, and names those that are others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from t2x_core.cli.main import main
from t2x_core.data import content
from t2x_core.data.content import content_hash
from t2x_core.data.identity import Identity
from t2x_core.errors import UserError
from t2x_core.source import Source
from t2x_core.training.data_record import check_data
from t2x_core.types import Batch, Bucket, Sample, SampleKey, Variation
from tests.conftest import IMAGES, TINY_IMAGES
from tests.data.image_set import write_good


class Named(Source):
    """Samples of one letter each, and what is in them."""

    def __init__(self, bucket: Bucket, names: str, contents: str) -> None:
        self.bucket, self.names, self.contents = bucket, names, contents

    def buckets(self) -> list[Bucket]:
        return [self.bucket]

    def __len__(self) -> int:
        return self.bucket.count

    def vary(self, key: SampleKey) -> Variation:
        raise NotImplementedError

    def load(self, variation: Variation) -> Sample:
        raise NotImplementedError

    def collate(self, samples: Sequence[Sample]) -> Batch:
        raise NotImplementedError

    def name(self, key: SampleKey) -> str:
        return self.names[key.id]

    def content(self, key: SampleKey) -> str:
        return self.contents[key.id]


def test_a_damaged_record_of_the_data_is_told_from_other_data(tmp_path):
    def samples(*shape, names="abcdefghi", contents="123456789"):
        return {"videos": {"train": Identity("videos", Named(Bucket(1, *shape), names, contents))}}

    found = samples(2, 2, 9)
    check_data(tmp_path, found, resume=False)
    check_data(tmp_path, found, resume=True)
    other = samples(2, 2, 9, names="abcdefghk")
    with pytest.raises(
        UserError, match="for training videos had 9 samples in 1 bucket, now as many, but others; put it"
    ):
        check_data(tmp_path, other, resume=True)
    other = samples(2, 4, 9)
    with pytest.raises(UserError, match="had 9 samples in 1 bucket, now as many, in other buckets; put it back"):
        check_data(tmp_path, other, resume=True)
    for damaged in ("{", "[]", "7", '{"videos": 3}', '{"videos": {"train": [], "val": {}}}', "[" * 100_000, "\0" * 9):
        (tmp_path / "data.json").write_text(damaged)
        check_data(tmp_path, found, resume=True)  # as if it were missing
        assert json.loads((tmp_path / "data.json").read_text())["videos"]["train"]["buckets"] == [[1, 2, 2, 9]]
    other = samples(2, 2, 10, names="abcdefghij", contents="0123456789")
    check_data(tmp_path, other, resume=True, allow=True)
    check_data(tmp_path, other, resume=True)


def test_a_sample_of_another_content_is_named_and_may_be_allowed(tmp_path):
    def samples(contents):
        return {"clips": {"train": Identity("clips", Named(Bucket(1, 2, 2, 4), "abcd", contents))}}

    check_data(tmp_path, samples("1234"), resume=False)
    check_data(tmp_path, samples("1234"), resume=True)
    why = "for training clips 1 of 4 samples has another content than before: c; put it back, or --allow data to go on"
    with pytest.raises(UserError, match=why):
        check_data(tmp_path, samples("12x4"), resume=True)
    (tmp_path / "data_contents.npz").write_bytes(b"PK damaged")
    with pytest.raises(UserError, match="for training clips some samples have another content than before; put"):
        check_data(tmp_path, samples("12x4"), resume=True)
    check_data(tmp_path, samples("12x4"), resume=True, allow=True)
    check_data(tmp_path, samples("12x4"), resume=True)
    with pytest.raises(UserError, match="2 of 4 samples have another content than before: a, c; put it back"):
        check_data(tmp_path, samples("9234"), resume=True)
    kept = json.loads((tmp_path / "data.json").read_text())
    del kept["clips"]["train"]["contents"]  # an older version kept none
    (tmp_path / "data.json").write_text(json.dumps(kept))
    check_data(tmp_path, samples("9234"), resume=True)


def test_a_changed_image_or_caption_is_noticed_and_a_copy_is_not(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_good(tmp_path / "photos", 28)
    shutil.copytree("photos", "copied", copy_function=shutil.copyfile)  # without the times
    settings = [*TINY_IMAGES, "trainer.workers=0", "logging.sample_every=0", "logging.final_score_samples=0"]

    def go_on(folder: str, steps: int, *more: str) -> tuple[int, str]:
        capsys.readouterr()
        own = [*settings, f"{IMAGES}.folder={folder}", f"trainer.max_steps={steps}"]
        return main(["fit", "text_to_image/folder", *own, *more]), capsys.readouterr().err

    assert go_on("photos", 1, "--folder", "run")[0] == 0
    assert go_on("copied", 2, "--resume", "run")[0] == 0
    changed = next(file for file in sorted(Path("copied").rglob("*.jpg")))
    with Image.open(changed) as image:
        ImageOps.invert(image.convert("RGB")).save(changed, exif=image.getexif())
    code, said = go_on("copied", 3, "--resume", "run")
    assert code == 2
    assert f"1 of 24 samples has another content than before: {changed.relative_to('copied')}; put it back" in said
    assert go_on("photos", 3, "--resume", "run")[0] == 0
    caption = next(file for file in sorted(Path("photos").rglob("*.txt")))
    caption.write_text("something else\n")
    code, said = go_on("photos", 4, "--resume", "run")
    assert code == 2
    assert f" has another content than before: {caption.relative_to('photos').with_suffix('')}" in said
    assert go_on("photos", 4, "--resume", "run", "--allow", "data")[0] == 0
    assert go_on("photos", 5, "--resume", "run")[0] == 0


def test_each_byte_of_a_file_counts_and_of_a_large_one_its_size_and_samples(tmp_path):
    file = tmp_path / "file"
    data = bytes(range(256)) * 4096  # 1 MiB
    file.write_bytes(data)
    first = content_hash(file)
    for place in (0, 1, 500_000, len(data) - 1):
        file.write_bytes(data[:place] + b"?" + data[place + 1 :] if data[place : place + 1] != b"?" else data)
        assert content_hash(file) != first
    for size in (0, 1, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20 + 7):
        file.write_bytes((data * 4)[:size])
        before = content_hash(file)
        with file.open("ab") as stream:
            stream.write(b"x")
        assert content_hash(file) != before
    block = 2**16
    large = bytearray(64 * block)
    file.write_bytes(large)
    before = content_hash(file)
    for place in (0, len(large) - 1, (len(large) - block) // 15 + 5):
        other = large.copy()
        other[place] = 1
        file.write_bytes(other)
        assert content_hash(file) != before
    assert content.BLOCKS * block == content.WHOLE
