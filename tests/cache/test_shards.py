"""`t2x cache` over shards: all is encoded once, training is as without, and what is another is encoded anew."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from t2x_core.cli.main import main
from tests.cache.recipes import IMAGE, losses, write_recipe
from tests.data.shard_set import image_bytes, write, write_parquet, write_tar

pytest.importorskip("diffusers")
pytest.importorskip("transformers")


def encoded(capsys: pytest.CaptureFixture[str]) -> int:
    """How many entries the last call encoded."""
    found = re.search(r"(\d+) entr(?:y|ies) encoded", capsys.readouterr().out)
    assert found is not None
    return int(found[1])


def files(*changed: int) -> dict[str, tuple[bytes, list[str]]]:
    return {f"{i:02d}.png": (image_bytes(i + 100 * (i in changed), 24, 20), [f"image {i}"]) for i in range(12)}


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_shards_are_cached_once_and_train_as_without(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "known"))
    recipe = write_recipe(tmp_path, IMAGE)
    place = Path(str(write(kind, tmp_path / "shards", files(), shards=2)["shards"]))
    data = f"tasks.{IMAGE}.data.images"
    settings = [f"{data}.folder=null", f"{data}.shards={place}", f"{data}.flip=0", "cache.identity=bytes"]
    without = losses(recipe, [*settings, "cache.latents=false", "cache.text=false", "cache.folder=null"])
    assert main(["cache", str(recipe), *settings]) == 0
    first = encoded(capsys)
    assert first >= 24  # 12 images, and 12 captions
    assert losses(recipe, settings) == pytest.approx(without, rel=1e-2)  # latents are kept in 16 bits
    assert main(["cache", str(recipe), *settings]) == 0
    assert encoded(capsys) == 0
    # One image of the second shard is another; its neighbours are where other bytes were.
    last = dict(list(files(9).items())[6:])
    (write_tar if kind == "tar" else write_parquet)(place / f"001.{kind}", last)
    assert main(["cache", str(recipe), *settings]) == 0
    assert 1 <= encoded(capsys) <= 2  # as often as it is cropped
