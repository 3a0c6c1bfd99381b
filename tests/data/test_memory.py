"""Thousands of reads from shards leave no more in memory than hundreds."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2x_core.data.decode import SUFFIXES, decode
from t2x_core.data.manifest import Columns
from t2x_core.data.shards import list_shards
from tests.data.shard_set import write

READS, BOUND = 5000, 24.0
"""Reads, and megabytes by which memory may grow: a tenth of what the files that are read would take."""


def resident() -> float:
    """Megabytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.parametrize("kind", ["tar", pytest.param("parquet", marks=pytest.mark.slow)])
def test_memory_is_flat_over_5000_reads(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    noise = np.random.default_rng(0)
    files = {}
    for i in range(96):
        stream = io.BytesIO()
        Image.fromarray(noise.integers(0, 256, (128, 128, 3), dtype=np.uint8)).save(stream, "PNG", compress_level=0)
        files[f"{i:03d}.png"] = stream.getvalue(), ["noise"]
    found = list_shards(
        Path(str(write(kind, tmp_path / "data", files)["shards"])), Columns("path", ["caption"]), SUFFIXES
    )
    order = noise.integers(0, len(found.files), READS)
    for turn, i in enumerate(order):
        if turn == READS // 10:
            before = resident()
        assert decode(found.files[i].place, (0, 0, 0)).shape == (3, 128, 128)
    grown = resident() - before
    assert READS * 0.9 * len(files["000.png"][0]) / 1e6 > 8 * BOUND  # so a leak of the files would show
    assert grown < BOUND
