"""`t2x cache`: all is encoded once, whoever is killed and however many work; and kept in order afterwards."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t2x_core.cache.store import SHARDS, Store
from t2x_core.cli.main import main
from t2x_core.errors import UserError
from t2x_core.frozen import Codec
from t2x_core.precompute.part import Part, parse_part, part_of
from tests.cache.recipes import IMAGE, opened, write_images, write_recipe

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
ENVIRON = {**os.environ, "OMP_NUM_THREADS": "1"}


def cache(recipe: Path, *options: str) -> subprocess.Popen[bytes]:
    """`t2x cache` in a process of its own, which writes a shard for each batch."""
    code = (
        "import sys, time; from t2x_core.cache import store; from t2x_core.cli.main import main\n"
        "store.Writer.__init__.__defaults__ = (1, 0.0)\n"
        f"sys.exit(main({['cache', str(recipe), *options]!r}))"
    )
    return subprocess.Popen([sys.executable, "-c", code], env=ENVIRON)


def entries(folder: Path) -> int:
    return len(Store(folder / "cache"))


def test_a_killed_call_goes_on(tmp_path, capsys):
    recipe = write_recipe(tmp_path, IMAGE)
    write_images(tmp_path / "images", 150)
    child = cache(recipe)
    while entries(tmp_path) < 20:
        assert child.poll() is None
        time.sleep(0.02)
    child.kill()
    child.wait()
    there = entries(tmp_path)
    assert main(["cache", str(recipe)]) == 0
    said = capsys.readouterr().out
    whole = entries(tmp_path)
    assert 20 <= there < whole
    assert f"{there} of them there" in said
    assert f"{whole - there} entries encoded" in said
    assert main(["cache", str(recipe)]) == 0
    assert "0 entries encoded" in capsys.readouterr().out
    assert main(["cache", str(recipe), "--verify"]) == 0


@pytest.mark.slow
def test_processes_share_the_work_or_do_all_of_it_at_once(tmp_path, capsys):
    recipe = write_recipe(tmp_path, IMAGE)
    assert main(["cache", str(recipe), "cache.folder=" + str(tmp_path / "alone")]) == 0
    alone = Store(tmp_path / "alone").keys()
    for options in (("--part", "1/3"), ("--part", "2/3"), ("--part", "3/3")):
        assert main(["cache", str(recipe), *options]) == 0
    assert Store(tmp_path / "cache").keys() == alone
    assert len(Store(tmp_path / "cache")) == len(alone)  # none twice
    children = [cache(recipe, f"cache.folder={tmp_path / 'both'}") for _ in range(2)]
    assert [child.wait(600) for child in children] == [0, 0]
    store = Store(tmp_path / "both")
    assert not store.damaged
    assert store.keys() == alone
    capsys.readouterr()
    assert main(["cache", str(recipe), f"cache.folder={tmp_path / 'both'}", "--prune"]) == 0
    assert len(Store(tmp_path / "both")) == len(alone)  # what both have encoded is there once


def test_which_part_a_process_does():
    assert parse_part("2/8") == Part(1, 8)
    array = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_MAX": "9"}
    assert part_of(1, 2, {**array, "SLURM_ARRAY_TASK_STEP": "2"}) == Part(2 * 2 + 1, 4 * 2)
    assert part_of(3, 4, {}) == Part(3, 4)
    shares = [sum(Part(i, 5).has(i.to_bytes(1) + bytes([j]) * 15) for j in range(200)) for i in range(5)]
    assert sum(shares) > 0
    for j in range(200):
        key = bytes([j, 7 * j % 256]) * 8
        assert sum(Part(i, 5).has(key) for i in range(5)) == 1
    for wrong in ("0/2", "3/2", "1", "a/b", "1/0", "-1/2"):
        with pytest.raises(UserError, match="--part"):
            parse_part(wrong)
    for missing in ("SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX"):
        with pytest.raises(UserError, match="SLURM_ARRAY_TASK_ID is set"):
            part_of(0, 1, {name: value for name, value in array.items() if name != missing})
    with pytest.raises(UserError, match="task 7 of a SLURM array is none of"):
        part_of(0, 1, {**array, "SLURM_ARRAY_TASK_MAX": "5"})


def test_a_dry_run_says_how_much_and_writes_nothing(tmp_path, capsys):
    recipe = write_recipe(tmp_path, IMAGE)
    assert main(["cache", str(recipe), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert not entries(tmp_path)
    found = re.search(r"that is ([\d.]+) kB, (?:\d+ min )?\d+ s for this process on cpu; nothing was written", said)
    assert found
    assert main(["cache", str(recipe)]) == 0
    written = sum(file.stat().st_size for file in (tmp_path / "cache" / SHARDS).iterdir()) / 1000
    assert float(found[1]) == pytest.approx(written, rel=0.15)


def test_verify_finds_damage_and_encodes_again_what_it_removed(tmp_path, capsys, monkeypatch):
    recipe = write_recipe(tmp_path, IMAGE)
    assert main(["cache", str(recipe)]) == 0
    (shard,) = (tmp_path / "cache" / SHARDS).iterdir()
    whole = entries(tmp_path)
    content = bytearray(shard.read_bytes())
    content[-40] ^= 1
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert main(["cache", str(recipe), "--verify"]) == 1
    assert "entries are not what was written" in capsys.readouterr().out
    assert 0 < entries(tmp_path) < whole
    assert main(["cache", str(recipe)]) == 0
    assert entries(tmp_path) == whole
    assert main(["cache", str(recipe), "--verify"]) == 0
    encode = Codec.encode
    monkeypatch.setattr(Codec, "encode", lambda self, pixels, separate: encode(self, pixels, separate) + 0.1)
    assert main(["cache", str(recipe), "--verify"]) == 2
    assert re.search(
        r"24 of \d+ entries are not what is encoded now: \d\d.png: latents differs by 0.1", capsys.readouterr().err
    )


def test_prune_removes_what_is_not_used_and_nothing_else(tmp_path, capsys):
    recipe = write_recipe(tmp_path, IMAGE)
    assert main(["cache", str(recipe)]) == 0
    whole = Store(tmp_path / "cache").keys()
    (tmp_path / "images" / "03.png").unlink()
    (tmp_path / "images" / "03.txt").unlink()
    capsys.readouterr()
    assert main(["cache", str(recipe), "--prune"]) == 0
    assert re.search(r"[23] entries removed that this recipe does not use", capsys.readouterr().out)
    assert Store(tmp_path / "cache").keys() < whole
    assert main(["cache", str(recipe), "--dry-run"]) == 0
    assert "to encode: 0 and 0" in capsys.readouterr().out


def test_what_goes_wrong_while_encoding_is_one_line_and_what_was_written_stays(tmp_path, capsys, monkeypatch):
    recipe = write_recipe(tmp_path, IMAGE)
    encode, calls = Codec.encode, []

    def failing(self, pixels, separate):
        calls.append(1)
        if len(calls) > 2:
            raise MemoryError("no memory")
        return encode(self, pixels, separate)

    monkeypatch.setattr(Codec, "encode", failing)
    assert main(["cache", str(recipe)]) == 3
    assert "t2x: encoding failed" in capsys.readouterr().err
    assert entries(tmp_path) == 16


def test_a_recipe_without_a_folder_keeps_nothing(tmp_path, capsys):
    recipe = write_recipe(tmp_path, IMAGE, "{variants: 2}")
    assert main(["cache", str(recipe)]) == 2
    assert "keeps nothing" in capsys.readouterr().err
    module, _ = opened(recipe)
    assert module.cache.store is None


@pytest.mark.parametrize(("left_out", "kept"), [("cache.text=false", "latent"), ("cache.latents=false", "text")])
def test_one_kind_alone_is_kept(tmp_path, capsys, left_out, kept):
    recipe = write_recipe(tmp_path, IMAGE)
    assert main(["cache", str(recipe), left_out]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    other = {"latent": "0 texts", "text": "0 latents"}[kept]
    assert other in first
    assert entries(tmp_path) > 0
    assert main(["cache", str(recipe), left_out, "--verify"]) == 0
