"""Keeps the store in order: what is damaged, or not wanted any more, goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import torch

from t2x_core.cache.shard import SUFFIX, checksum, read_table, unpack
from t2x_core.cache.storage import from_storage
from t2x_core.cache.store import INDEX, SHARDS, Store, Writer, remove_leftovers, shard_keys


def rewrite(folder: Path, keep: Callable[[bytes], bool], change: bool = True) -> tuple[int, int, list[str]]:
    """Removes records that are damaged, or that `keep` does not want, or that stand twice; shards without one stay.

    Good records of a shard are written to a new one before the old one goes, so nothing is lost if it is killed.

    Returns:
        Records and bytes that are not wanted, and a line for each damaged shard.
    """
    gone, freed, damaged = 0, 0, []
    seen: set[bytes] = set()
    for file in sorted((folder / SHARDS).glob(f"*{SUFFIX}")):
        try:
            table = read_table(file)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            damaged.append(f"{file.name}: {error}")
            freed += file.stat().st_size
            if change:
                file.unlink(missing_ok=True)
            continue
        keys, kept, bad = shard_keys(table), [], 0
        with file.open("rb") as stream:
            for i, key in enumerate(keys):
                stream.seek(int(table.starts[i]))
                data = bytearray(stream.read(int(table.sizes[i])))
                layout = table.kinds[int(table.layouts[i])]
                if checksum(key, layout, data) != int(table.checksums[i]):
                    bad += 1
                elif key in seen or not keep(key):
                    gone, freed = gone + 1, freed + len(data)
                else:
                    seen.add(key)
                    kept.append(i)
        if bad:
            damaged.append(f"{file.name}: {bad} of {len(keys)} entries are not what was written")
        if change and len(kept) < len(keys):
            _copy(folder, file, kept)
    if change:
        freed += remove_leftovers(folder)
        (folder / INDEX).unlink(missing_ok=True)
        Store(folder).write_index()
    return gone, freed, damaged


def _copy(folder: Path, file: Path, rows: Iterable[int]) -> None:
    """The records of a shard at `rows` as a new shard in its place."""
    table = read_table(file)
    keys = shard_keys(table)
    with Writer(folder, seconds=float("inf"), shard_bytes=2**62) as writer, file.open("rb") as stream:
        for i in rows:
            stream.seek(int(table.starts[i]))
            data = bytearray(stream.read(int(table.sizes[i])))
            writer.add(keys[i], unpack(table.kinds[int(table.layouts[i])], data))
    with suppress(FileNotFoundError):
        file.unlink()


def differs(store: Store, key: bytes, fresh: dict[str, torch.Tensor]) -> str | None:
    """How the record of a key differs from what is encoded now; None: not more than by rounding."""
    kept = store.get(key)
    if kept is None:
        return "it cannot be read"
    if kept.keys() != fresh.keys():
        return "it holds other tensors"
    for name, tensor in fresh.items():
        if name.endswith(".scale"):
            continue
        if kept[name].shape != tensor.shape or kept[name].dtype != tensor.dtype:
            return f"{name} is {tuple(kept[name].shape)}, not {tuple(tensor.shape)}"
        if tensor.dtype in (torch.uint8, torch.bool, torch.int64) or not tensor.numel():
            if not torch.equal(kept[name], tensor):
                return f"{name} differs"
            continue
        is_int8 = tensor.dtype == torch.int8
        one, other = (from_storage(name, record) if is_int8 else record[name].float() for record in (kept, fresh))
        step = {torch.float16: 2**-10, torch.bfloat16: 2**-7, torch.int8: 2**-6}.get(tensor.dtype, 1e-4)
        if (error := (one - other).abs().max().item()) > 4 * step * max(1.0, other.abs().max().item()):
            return f"{name} differs by {error:.3g}"
    return None
