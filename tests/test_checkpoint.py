"""Checkpoints: whole or not there, read without running code, and the damaged ones passed over."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import torch

from t2x_core.checkpoint import (
    best_of,
    checkpoint_of,
    checkpoints_of,
    materialize,
    open_checkpoint,
    read_checkpoint,
    write_best,
    write_checkpoint,
)
from t2x_core.errors import UserError

CONTENT = {
    "global_step": 3,
    "weights": {"a": torch.arange(6).view(3, 2).float(), "scalar": torch.tensor(2.5), "half": torch.ones(2).bfloat16()},
    "by number": {0: {"step": torch.tensor(1.0)}, 1: {}},
    "plain": [1, 2.5, "three", None, True, float("inf"), ("a", ("tuple",))],
    "$odd": {"$tensor": "not one"},
}


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and all(map(same, one, other))
    return one == other and type(one) is type(other)


def test_a_checkpoint_comes_back(tmp_path):
    folder = checkpoint_of(tmp_path, 3)
    write_checkpoint(CONTENT, folder)
    assert same(materialize(read_checkpoint(folder)), CONTENT)
    assert checkpoints_of(tmp_path) == [folder]
    assert os.listdir(folder.parent) == [folder.name]


def test_a_step_that_is_saved_again_is_replaced(tmp_path):
    folder = checkpoint_of(tmp_path, 3)
    write_checkpoint(CONTENT, folder)
    write_checkpoint({"global_step": 3, "new": torch.zeros(1)}, folder)
    assert read_checkpoint(folder).keys() == {"global_step", "new"}
    assert os.listdir(folder.parent) == [folder.name]


def test_rows_are_read_from_where_they_are(tmp_path):
    folder = checkpoint_of(tmp_path, 3)
    write_checkpoint(CONTENT, folder)
    found = read_checkpoint(folder)["weights"]["a"]
    assert found.shape == (3, 2)
    assert found.rows(1, 2).tolist() == [[2, 3]]


def test_a_failed_write_leaves_the_old_checkpoint_and_no_litter(tmp_path):
    first, second = checkpoint_of(tmp_path, 1), checkpoint_of(tmp_path, 2)
    write_checkpoint({"global_step": 1}, first)
    # A limit on file size stands in for a full disk: the write fails half-way.
    code = (
        "import pathlib, resource, signal, sys, torch\n"
        "from t2x_core.checkpoint import write_checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "write_checkpoint({'global_step': 2, 'w': torch.zeros(10**6)}, pathlib.Path(sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(second)], capture_output=True, text=True)
    assert "TrainingError: cannot write" in done.stderr
    assert "the checkpoints before it are untouched" in done.stderr
    assert read_checkpoint(first)["global_step"] == 1
    assert os.listdir(first.parent) == [first.name]


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (os.environ["BOMB"],))


@pytest.mark.parametrize("file", ["index.json", "rank_00000.safetensors", None])
@pytest.mark.parametrize("write", [torch.save, lambda bomb, file: file.write_bytes(pickle.dumps(bomb))])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch, file, write):
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    folder = checkpoint_of(tmp_path, 3)
    if file is None:  # a file in place of the folder
        folder.parent.mkdir()
        write(Bomb(), folder)
    else:
        write_checkpoint(CONTENT, folder)
        write(Bomb(), folder / file)
    with pytest.raises(UserError, match=r"is damaged, or no checkpoint|is no checkpoint"):
        read_checkpoint(folder)
    assert not (tmp_path / "exploded").exists()


def truncate(folder):
    data = (folder / "rank_00000.safetensors").read_bytes()
    (folder / "rank_00000.safetensors").write_bytes(data[: len(data) // 2])


def truncate_index(folder):
    (folder / "index.json").write_text((folder / "index.json").read_text()[:-10])


def lose_a_file(folder):
    (folder / "rank_00000.safetensors").unlink()


def point_elsewhere(folder):
    text = (folder / "index.json").read_text()
    (folder / "index.json").write_text(text.replace("rank_00000", "../rank_00000"))


def lose_rows(folder):
    index = json.loads((folder / "index.json").read_text())
    index["tensors"]["/weights/a"]["pieces"][0][1] = 2
    (folder / "index.json").write_text(json.dumps(index))


def lose_a_sector(folder):
    """Zeros in the midst of a tensor; the file has its size and its table."""
    data = bytearray((folder / "rank_00000.safetensors").read_bytes())
    data[-24:-16] = bytes(8)  # of a, whose six numbers stand last
    (folder / "rank_00000.safetensors").write_bytes(data)


def change_index(change):
    """Damage to the index that is still JSON: what `change` returns or does to it."""

    def damage(folder):
        index = json.loads((folder / "index.json").read_text())
        changed = change(index)
        (folder / "index.json").write_text(changed if isinstance(changed, str) else json.dumps(changed or index))

    damage.__name__ = f"index: {change.__name__}"
    return damage


def a_list(index):
    return [index]


def tensors_as_a_list(index):
    index["tensors"] = list(index["tensors"])


def no_content(index):
    del index["content"]


def another_number(index):
    index["content"]["$items"][0][1] += 1


def nested(index):
    return "[" * 100_000


def nested_content(index):
    index["content"] = None
    return json.dumps(index).replace('"content": null', '"content": ' + "[" * 900 + "]" * 900)


def a_number(index):
    return "7"


def binary(folder):
    (folder / "index.json").write_bytes(b"\xff\xfe\x00")


DAMAGES = [
    *(truncate, truncate_index, lose_a_file, point_elsewhere, lose_rows, lose_a_sector, binary, shutil.rmtree),
    *map(change_index, (a_list, tensors_as_a_list, no_content, another_number, nested, nested_content, a_number)),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_damaged_checkpoints_the_one_before_is_taken(tmp_path, damage, caplog):
    for step in (1, 2):
        write_checkpoint({**CONTENT, "global_step": step}, checkpoint_of(tmp_path, step))
    damage(checkpoint_of(tmp_path, 2))
    found, content = open_checkpoint(tmp_path, "last", None)
    assert (found, content["global_step"]) == (checkpoint_of(tmp_path, 1), 1)
    if damage is not shutil.rmtree:
        with pytest.raises(UserError, match="step_00000002 is damaged"):
            open_checkpoint(tmp_path, "2", None)


def test_what_is_no_checkpoint_is_passed_over(tmp_path):
    """Of several good ones the last is the newest, by number and not by name; other things are left alone."""
    for step in (9, 10, 100_000_000):
        write_checkpoint({**CONTENT, "global_step": step}, checkpoint_of(tmp_path, step))
    for name in ("step_²", "step_", "step_00000011.bak", "step_-1", f"step_{'9' * 30}", "damaged_step_00000012"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert [path.name for path in checkpoints_of(tmp_path)] == ["step_00000009", "step_00000010", "step_100000000"]
    assert open_checkpoint(tmp_path, "last")[1]["global_step"] == 100_000_000


def test_only_the_parts_that_are_asked_for_are_verified(tmp_path):
    folder = checkpoint_of(tmp_path, 3)
    write_checkpoint({"global_step": 3, "one": {"w": torch.ones(100)}, "two": torch.ones(100)}, folder)
    data = bytearray((folder / "rank_00000.safetensors").read_bytes())
    at = data.rindex(torch.ones(1).numpy().tobytes())
    data[at : at + 4] = bytes(4)  # the last number of "two"
    (folder / "rank_00000.safetensors").write_bytes(data)
    assert read_checkpoint(folder, ("one",))["one"]["w"].full().sum() == 100
    for verified in (("two",), None):
        with pytest.raises(UserError, match=r"/two in rank_00000\.safetensors is not what was written"):
            read_checkpoint(folder, verified)


def test_files_may_be_read_as_far_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        write_checkpoint(CONTENT, checkpoint_of(tmp_path, 3))
        os.umask(0o077)
        write_checkpoint(CONTENT, checkpoint_of(tmp_path, 4))
    finally:
        os.umask(before)
    for step, mode in ((3, 0o644), (4, 0o600)):
        assert {path.stat().st_mode & 0o777 for path in checkpoint_of(tmp_path, step).iterdir()} == {mode}


@pytest.mark.parametrize(
    "text", ["", "[]", "7", '{"step": "3"}', '{"step": [3]}', '{"step": 1e999}', "[" * 100_000, "\0" * 40]
)
def test_a_damaged_note_of_the_best_is_none(tmp_path, text):
    write_checkpoint(CONTENT, checkpoint_of(tmp_path, 3))
    (tmp_path / "checkpoints" / "best.json").write_text(text)
    assert best_of(tmp_path) is None


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="has no checkpoint; the run has not saved one yet"):
        open_checkpoint(tmp_path, "last")
    write_checkpoint(CONTENT, checkpoint_of(tmp_path, 3))
    with pytest.raises(UserError, match="no checkpoint of step 4; there are: 3"):
        open_checkpoint(tmp_path, "4")
    with pytest.raises(UserError, match="has no best checkpoint"):
        open_checkpoint(tmp_path, "best")
    with pytest.raises(UserError, match='last, best or the number of a step, not "newest"'):
        open_checkpoint(tmp_path, "newest")
    write_best(tmp_path, 3, 0.5)
    assert open_checkpoint(tmp_path, "best")[0] == checkpoint_of(tmp_path, 3)


def test_only_plain_values_are_saved(tmp_path):
    with pytest.raises(TypeError, match=r"not \{1\} at /set"):
        write_checkpoint({"set": {1}}, checkpoint_of(tmp_path, 1))
