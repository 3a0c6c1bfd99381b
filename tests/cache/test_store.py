"""The store of records: what is written comes back, whoever writes, and whatever happens to the files."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from t2x_core.cache import shard
from t2x_core.cache.store import INDEX, SHARDS, Store, Writer, key_of, remove_leftovers
from t2x_core.errors import UserError
from t2x_core.precompute.tidy import rewrite


def record(i: int) -> dict[str, torch.Tensor]:
    """One of three layouts."""
    own = torch.Generator().manual_seed(i)
    found = {"latents": torch.randn(4, 1, 2 + i % 3, 5, generator=own).to([torch.float32, torch.bfloat16][i % 2])}
    return (
        found if i % 3 else {**found, "flag": torch.tensor(i % 2 == 0), "none": torch.empty(0, 3), "n": torch.tensor(i)}
    )


def fill(folder: Path, numbers: range, **options: float) -> None:
    with Writer(folder, **options) as writer:  # type: ignore[arg-type]
        for i in numbers:
            writer.add(key_of("test", i), record(i))


def check(store: Store, numbers: range) -> None:
    for i in numbers:
        found = store.get(key_of("test", i))
        assert found is not None
        wanted = record(i)
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)


def test_records_come_back_from_shards_index_and_copies(tmp_path):
    fill(tmp_path, range(50), shard_bytes=500)
    store = Store(tmp_path)
    assert len(list((tmp_path / SHARDS).iterdir())) > 3
    check(store, range(50))
    assert key_of("test", 50) not in store
    store.write_index()
    fill(tmp_path, range(50, 60))  # not in the index
    for again in (Store(tmp_path), pickle.loads(pickle.dumps(store))):
        assert len(again) == 60
        check(again, range(60))
        assert again.keys() == {key_of("test", i) for i in range(60)}
    store.write_index()
    assert len(Store(tmp_path)._parts) == 1
    check(Store(tmp_path), range(60))


def test_a_shard_is_a_safetensors_file(tmp_path):
    fill(tmp_path, range(3))
    (file,) = (tmp_path / SHARDS).iterdir()
    with safe_open(file, "pt") as opened:
        keys, offsets, data = (opened.get_tensor(name) for name in ("keys", "offsets", "data"))
    assert bytes(keys[1].tolist()) == key_of("test", 1)
    own = data[offsets[1] : offsets[2]][: record(1)["latents"].nbytes]
    assert torch.equal(own.view(torch.bfloat16), record(1)["latents"].flatten())


def test_keys_are_the_same_on_every_machine():
    assert key_of("a", 1, 0.5, None, [True, "é"]).hex() == key_of("a", 1, 0.5, None, (True, "é")).hex()
    assert key_of("a", 1) == hashlib.blake2b(b'["a",1]', digest_size=16).digest()
    assert len({key_of(*words) for words in (("a", 1), ("a", "1"), ("a", 1.0), ("a1",), ("a", [1]), (["a", 1],))}) == 6


@pytest.mark.parametrize("place", ["keys", "middle", "end", "header"])
def test_damage_is_never_read(tmp_path, place, caplog):
    fill(tmp_path, range(20))
    Store(tmp_path).write_index()
    (file,) = (tmp_path / SHARDS).iterdir()
    content = bytearray(file.read_bytes())
    if place == "end":
        del content[-10:]
    else:
        places = shard.read_header(file).places
        at = {"keys": places["keys"][2], "header": 30, "middle": places["data"][2] + 100}[place]
        content[at] ^= 0xFF
    file.write_bytes(content)
    for indexed in (True, False):
        if not indexed:
            (tmp_path / INDEX).unlink()
        store = Store(tmp_path)
        for i in range(20):
            found = store.get(key_of("test", i))
            assert found is None or all(torch.equal(found[name], tensor) for name, tensor in record(i).items())
    if place in ("middle", "end"):
        assert "is damaged" in caplog.text


@pytest.mark.parametrize(
    "content", [b"", b"12345678", b"\xff" * 100, (2**40).to_bytes(8, "little") + b"{}", b"\x02" + bytes(7) + b"{}"]
)
def test_files_that_are_no_shards_are_passed_over(tmp_path, content):
    fill(tmp_path, range(3))
    (tmp_path / SHARDS / "strange.safetensors").write_bytes(content)
    (tmp_path / INDEX).write_bytes(content)
    store = Store(tmp_path)
    check(store, range(3))
    assert list(store.damaged) == ["strange.safetensors"]
    store.write_index()
    check(Store(tmp_path), range(3))


def test_an_index_of_shards_that_are_gone_is_not_believed(tmp_path):
    fill(tmp_path, range(10), shard_bytes=1)
    Store(tmp_path).write_index()
    gone = sorted((tmp_path / SHARDS).iterdir())[0]
    gone.unlink()
    store = Store(tmp_path)
    assert len(store) == 9
    assert sum(store.get(key_of("test", i)) is not None for i in range(10)) == 9


def test_a_full_disk_is_one_line_and_nothing_is_lost(tmp_path, monkeypatch):
    fill(tmp_path, range(5))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shard.os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left on device; 0 entries of this call are kept") as caught:
        fill(tmp_path, range(5, 9))
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / SHARDS).glob(".*"))
    monkeypatch.undo()
    check(Store(tmp_path), range(5))
    assert len(Store(tmp_path)) == 5


CHILD = """
import sys, torch
from pathlib import Path
from t2x_core.cache.store import Writer
from tests.cache.test_store import fill
fill(Path(sys.argv[1]), range(int(sys.argv[2]), int(sys.argv[3])), shard_bytes=2000)
"""


def test_processes_write_at_once_and_one_is_killed(tmp_path):
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), str(a), str(b)], env=environ)
        for a, b in ((0, 400), (200, 600), (1000, 2_000_000))
    ]
    for child in children[:2]:
        assert child.wait(300) == 0
    while not any(key_of("test", i) in Store(tmp_path) for i in range(1000, 1050)):
        time.sleep(0.1)
    children[2].kill()
    children[2].wait()
    store = Store(tmp_path)
    assert not store.damaged
    check(store, range(600))
    assert {key_of("test", i) for i in range(600)} <= store.keys()
    for path in (tmp_path / SHARDS).glob(".*.part"):
        os.utime(path, (0, 0))
    remove_leftovers(tmp_path)
    assert not list((tmp_path / SHARDS).glob(".*"))


OPENS = """
import resource, sys, time
from pathlib import Path
from t2x_core.cache.store import Store, key_of
status = lambda: int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) / 1024
before, began = status(), time.perf_counter()
store = Store(Path(sys.argv[1]))
opened = time.perf_counter() - began
assert len(store) == 100_000
for i in range(0, 100_000, 50):
    assert store.get(key_of("large", i)) is not None
print(opened, status() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc")
def test_a_hundred_thousand_records_cost_a_process_little(tmp_path):
    """Memory only: how long it takes depends on the machine, and is printed (`pytest -s -m slow`)."""
    one = {"latents": torch.zeros(4, 1, 8, 8)}
    with Writer(tmp_path, shard_bytes=2**22, seconds=1e9) as writer:
        for i in range(100_000):
            writer.add(key_of("large", i), one)
    for indexed in (False, True):
        if indexed:
            Store(tmp_path).write_index()
        answer = subprocess.run(
            [sys.executable, "-c", OPENS, str(tmp_path)], capture_output=True, text=True, check=True
        )
        seconds, megabytes = map(float, answer.stdout.split())
        print(f"\nindexed: {indexed}; opened in {seconds:.3f} s; {megabytes:.1f} MB with 2,000 entries read")
        assert megabytes < 50


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("what", [INDEX, SHARDS])
def test_whatever_byte_is_another_a_record_is_right_or_missing(what, seed, tmp_path):
    rng, numbers = random.Random(seed), range(6)
    for _ in range(10):
        folder = tmp_path / "store"
        shutil.rmtree(folder, ignore_errors=True)
        fill(folder, range(3))
        fill(folder, range(3, 6))
        Store(folder).write_index()
        file = folder / INDEX if what == INDEX else rng.choice(sorted((folder / SHARDS).iterdir()))
        data = bytearray(file.read_bytes())
        place = rng.randrange(len(data))
        data[place : place + 8] = rng.randbytes(len(data[place : place + 8]))
        file.write_bytes(data)
        store = Store(folder)
        for i in numbers:
            found = store.get(key_of("test", i))
            assert found is None or all(torch.equal(found[name], tensor) for name, tensor in record(i).items())
        rewrite(folder, lambda key: True)
        assert not Store(folder).damaged
