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
    assert "UserError: cannot write" in done.stderr
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


@pytest.mark.parametrize("damage", [truncate, truncate_index, lose_a_file, point_elsewhere, lose_rows, shutil.rmtree])
def test_of_damaged_checkpoints_the_one_before_is_taken(tmp_path, damage, caplog):
    for step in (1, 2):
        write_checkpoint({**CONTENT, "global_step": step}, checkpoint_of(tmp_path, step))
    damage(checkpoint_of(tmp_path, 2))
    found, content = open_checkpoint(tmp_path, "last")
    assert (found, content["global_step"]) == (checkpoint_of(tmp_path, 1), 1)
    if damage is not shutil.rmtree:
        with pytest.raises(UserError, match="step_00000002 is damaged"):
            open_checkpoint(tmp_path, "2")


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
