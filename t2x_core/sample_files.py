"""Samples as files: each by itself, and all on a sheet."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from t2x_core.errors import UserError
from t2x_core.generation import Samples, T2XPipeline
from t2x_core.plain_files import write_whole
from t2x_core.rendering import rows, save, to_uint8
from t2x_core.types import RenderedSamples

LONGEST_SLUG = 40
"""Letters of a prompt in a file's name."""
SHEET = "sheet"
"""Name of the file that shows all samples of a folder."""


def file_name(index: int, prompt: str, seed: int) -> str:
    """Without an ending: the number of the sample, words of its prompt, and its seed."""
    words = re.sub(r"[\W_]+", "-", prompt.lower())[:LONGEST_SLUG].strip("-")
    while len(words.encode()) > 2 * LONGEST_SLUG:  # a name has at most 255 bytes
        words = words[:-1]
    return "_".join([f"{index:04d}", *([words] if words else []), f"seed{seed}"])


def formats(pipeline: T2XPipeline, samples: Samples) -> tuple[str, ...]:
    """The formats that a sample can be written in, the default first."""
    moves = samples.pixels.shape[2] > 1 and not _views(pipeline, samples)
    return ("mp4", "gif", "webp") if moves else ("png", "webp")


def write_sample(pipeline: T2XPipeline, samples: Samples, place: Path, note: str) -> Path:
    """Writes the one sample of `samples` as it is, without its caption; returns the path written.

    Args:
        place: of a file, whose ending says the format. Views become a folder beside it of the same name without the
            ending, with an image for each, and what the task says of them (`Task.records`).
        note: for the file's metadata.

    Raises:
        UserError: it cannot be written.
    """
    (frames,) = to_uint8(samples.pixels)
    if not _views(pipeline, samples):
        fps = pipeline.render(samples).fps if len(frames) > 1 else 1.0
        return save(RenderedSamples(frames, fps), place, note)
    folder = place.with_suffix("")
    files = [f"view_{i:02d}{place.suffix}" for i in range(len(frames))]
    task = pipeline.assembly.task(samples.conditions.task)
    with pipeline.module.calls(f"tasks.{task.name}", "records", samples.conditions, task.records):
        records = task.records(samples.conditions, files)
    try:
        folder.mkdir(exist_ok=True)
        for name, content in records.items():
            write_whole(folder / name, json.dumps(content, indent=2, ensure_ascii=False))
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from error
    for file, view in zip(files, frames, strict=True):
        save(RenderedSamples(view.unsqueeze(0)), folder / file, note)
    return folder


def _views(pipeline: T2XPipeline, samples: Samples) -> bool:
    return pipeline.assembly.task(samples.conditions.task).separate_frames


def sheet(pipeline: T2XPipeline, samples: Samples, each: int) -> RenderedSamples:
    """All samples with their captions: a row for each prompt, of which there are `each`; a lone prompt's as a grid."""
    if each == 1 or len(samples.seeds) <= each:
        return pipeline.render(samples)
    ones = [pipeline.render(one) for one in singly(samples)]
    return rows([ones[start : start + each] for start in range(0, len(ones), each)])


def singly(samples: Samples) -> Iterator[Samples]:
    """Each sample by itself."""
    for i, seed in enumerate(samples.seeds):
        yield Samples(samples.pixels[i : i + 1], samples.conditions.select([i]), (seed,))
