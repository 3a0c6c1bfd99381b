import os
import pickle
import subprocess
import sys

import pytest
import torch

from t2x_core.checkpoint import AtomicCheckpointIO, read_checkpoint
from t2x_core.errors import UserError


def test_a_checkpoint_comes_back(tmp_path):
    path = tmp_path / "new" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"w": torch.arange(3), "step": 2}, path)
    found = read_checkpoint(path)
    assert found["w"].tolist() == [0, 1, 2]
    assert found["step"] == 2
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_a_failed_write_leaves_the_old_checkpoint_and_no_litter(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    # A limit on file size stands in for a full disk: the write fails half-way.
    code = (
        "import resource, signal, sys, torch\n"
        "from t2x_core.checkpoint import AtomicCheckpointIO\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "AtomicCheckpointIO().save_checkpoint({'step': 2, 'w': torch.zeros(10**6)}, sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert "UserError: cannot write" in done.stderr
    assert "the checkpoint before it is untouched" in done.stderr
    assert read_checkpoint(path)["step"] == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (os.environ["BOMB"],))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    torch.save({"step": 1, "bomb": Bomb()}, tmp_path / "saved.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Bomb()))
    for name in ("saved.ckpt", "plain.ckpt"):
        with pytest.raises(UserError, match="is damaged or no checkpoint"):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.ckpt does not exist"):
        read_checkpoint(tmp_path / "absent.ckpt")
