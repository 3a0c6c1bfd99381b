"""What it costs to start on a large set of images: seconds to the first batch, and memory of the loader's processes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from t2x_core.errors import UserError

SIDE, KINDS, BASE = 16, ("tar", "manifest"), 64
"""Pixels of the images' sides; how they are kept; and images of the small set that memory is compared with."""
WORKERS, BATCHES = 2, 20
"""Loader processes, and batches that each start reads."""
BLOCK = "tasks.text-to-image.data.images"
COLUMNS = f"{BLOCK}.columns={{captions: caption, height: height, width: width}}"


def write_images(kind: str, folder: Path, entries: int, parts: int) -> list[str]:
    """Writes images, in so many tar shards, or in so many folders with one manifest; the settings that name them."""
    pixels = [_png(i) for i in range(16)]
    folder.mkdir(parents=True)
    shares = [range(entries * i // parts, entries * (i + 1) // parts) for i in range(parts)]
    if kind == "tar":
        for part, numbers in enumerate(shares):
            with open(folder / f"{part:05d}.tar", "wb") as file:
                for i in numbers:
                    file.write(_member(f"{i:08d}.png", pixels[i % 16]))
                    file.write(_member(f"{i:08d}.json", json.dumps(_row(i)).encode()))
                file.write(bytes(1024))
        return [f"{BLOCK}.shards={folder}", COLUMNS]
    with open(folder / "list.jsonl", "w") as manifest:
        for part, numbers in enumerate(shares):
            (folder / f"{part:05d}").mkdir()
            for i in numbers:
                path = f"{part:05d}/{i:08d}.png"
                (folder / path).write_bytes(pixels[i % 16])
                manifest.write(json.dumps({"path": path, **_row(i)}) + "\n")
    return [f"{BLOCK}.manifest={folder / 'list.jsonl'}", COLUMNS]


def start(settings: list[str], cache: Path) -> dict[str, float]:
    """A start in a process of its own, with this cache folder: see `measure`. UserError says what went wrong there."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-m", "t2x_core.bench.start", *settings]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError("a start failed, see above")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(settings: list[str]) -> dict[str, float]:
    """Seconds for imports and model, until the data is known, and until the first batch is there; and megabytes:
    resident of this process at most, and what each loader process has, its share of what is common included."""
    import resource

    from t2x_core.assembly import build_data, build_module, load_assembly

    began = time.monotonic()
    common = ["trainer.accelerator=cpu", f"trainer.global_batch={BASE // 2}", "trainer.workers=0"]
    assembly = load_assembly("text_to_image/folder", [*common, f"{BLOCK}.size={SIDE}", *settings])
    data = build_data(assembly, build_module(assembly))
    built = time.monotonic()
    data.check()
    data.fingerprint()
    known = time.monotonic()
    batches = iter(data.train_loader(0, 1, lambda: 0, WORKERS))
    next(batches)
    first = time.monotonic()
    for _ in range(BATCHES):
        next(batches)
    workers = [_memory(process) for process in _children()]
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {
        "model": built - began,
        "data": known - built,
        "first batch": first - known,
        "main": most,
        "worker": max(workers, default=0.0),
    }


def _children() -> Iterator[int]:
    for task in Path("/proc/self/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


def _memory(process: int) -> float:
    """Megabytes of a process: its own, and its share of what several have (PSS)."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3


def _png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (number * 16, 3, 5)).save(stream, "PNG")
    return stream.getvalue()


def _row(number: int) -> dict[str, object]:
    return {"caption": f"a small image, number {number}", "height": SIDE, "width": SIDE}


def _member(name: str, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1:])), flush=True)
    os._exit(0)  # the loader's processes end with it
