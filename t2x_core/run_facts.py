"""What the files of a run say of it, for those who get its model: data, scores, versions, images of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from t2x_core.plain_files import read_json
from t2x_core.runs import DATA_FILE, ENVIRONMENT_FILE, MODEL_FILE, SAMPLES, TENSORBOARD
from t2x_core.types import Bucket
from t2x_core.weights import about_exported

DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)
"""What files that are missing or damaged may raise; a fact that is not known is left out."""
SHOWN = (".gif", ".png")
"""Endings of images of samples, the best for a page first."""


@dataclass(frozen=True)
class RunFacts:
    """What is known of how a model was made; each part may be missing."""

    step: int | None = None
    """Optimizer steps of the checkpoint."""
    data: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Task → samples that it was trained on ("train") and that were held out ("val")."""
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Task → what was scored → the last score up to `step`."""
    scored_at: int | None = None
    """The step of the scores."""
    val_loss: float | None = None
    """Of the averaged weights, the last one up to `step`."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package → version."""
    sheets: Mapping[str, Path] = field(default_factory=dict)
    """Task → an image of samples of held-out captions."""

    def plain(self) -> dict[str, Any]:
        """All but the images, as JSON has it."""
        return {name: value for name, value in asdict(self).items() if name != "sheets"}


def read_facts(folder: Path, step: int | None = None) -> RunFacts:
    """The facts of a run's checkpoint of `step`, or of an exported folder."""
    if (folder / MODEL_FILE).is_file():
        return _of_exported(folder)
    data, versions = {}, {}
    with suppress(*DAMAGE):
        data = {
            task: {part: sum(int(bucket[3]) for bucket in of[part]["buckets"]) for part in ("train", "val")}
            for task, of in read_json(folder / DATA_FILE).items()
        }
    with suppress(*DAMAGE):
        versions = {str(k): str(v) for k, v in read_json(folder / ENVIRONMENT_FILE)["versions"].items()}
    found = _figures(folder / TENSORBOARD, step)
    scores: dict[str, dict[str, float]] = {}
    for tag, (_, value) in found.items():
        if tag.startswith("score/"):
            _, task, what = tag.split("/", 2)
            scores.setdefault(task, {})[what] = value
    return RunFacts(
        step=step,
        data=data,
        scores=scores,
        scored_at=max((at for tag, (at, _) in found.items() if tag.startswith("score/")), default=None),
        val_loss=found["val/loss"][1] if "val/loss" in found else None,
        versions=versions,
        sheets=_sheets(folder / SAMPLES, step),
    )


def _figures(folder: Path, step: int | None) -> dict[str, tuple[int, float]]:
    """Tag → step and value of its last figure up to `step`, of TensorBoard's events."""
    if not folder.is_dir():
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    nothing = {"images": 1, "tensors": 1, "histograms": 1, "compressedHistograms": 1, "audio": 1}
    events = EventAccumulator(str(folder), size_guidance={**nothing, "scalars": 0}).Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        if tag == "val/loss" or (tag.startswith("score/") and tag.count("/") >= 2):
            points = [event for event in events.Scalars(tag) if step is None or event.step <= step]
            if points:
                found[tag] = points[-1].step, float(points[-1].value)
    return found


def _sheets(folder: Path, step: int | None) -> dict[str, Path]:
    """Task → the newest image up to `step`."""
    found: dict[str, tuple[int, int, Path]] = {}
    for file in folder.glob("*_*"):
        task, _, number = file.stem.rpartition("_")
        if file.suffix in SHOWN and number.isascii() and number.isdecimal() and not task.endswith("_prompts"):
            rank = int(number), -SHOWN.index(file.suffix), file
            if (step is None or rank[0] <= step) and rank > found.get(task, (-1, 0, file)):
                found[task] = rank
    return {task: file for task, (_, _, file) in found.items()}


def _of_exported(folder: Path) -> RunFacts:
    try:
        noted = about_exported(folder / MODEL_FILE)["facts"]
        known = {name: noted[name] for name in (f.name for f in fields(RunFacts)) if name in noted and name != "sheets"}
        sheets = {f.stem: f for ending in reversed(SHOWN) for f in sorted((folder / SAMPLES).glob(f"*{ending}"))}
        return RunFacts(**known, sheets=sheets)
    except DAMAGE:  # an older one
        return RunFacts()


def trained_shape(wanted: Bucket, trained: Sequence[Bucket]) -> Bucket:
    """The shape that is wanted if it is trained, else the commonest with as many frames (if there is one)."""
    same = [bucket for bucket in trained if bucket.frames == wanted.frames and bucket.count]
    if not same or any((b.height, b.width) == (wanted.height, wanted.width) for b in same):
        return wanted
    return max(same, key=lambda bucket: bucket.count)


def trained_shapes(folder: Path) -> dict[str, list[Bucket]]:
    """Task → the shapes of its training data, as a run's or an exported folder says; none where it does not."""
    try:
        exported = (folder / MODEL_FILE).is_file()
        noted = about_exported(folder / MODEL_FILE)["shapes"] if exported else _of_run(read_json(folder / DATA_FILE))
        return {task: [Bucket(*map(int, shape)) for shape in shapes] for task, shapes in noted.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # an older one, or damaged
        return {}


def _of_run(noted: Mapping[str, Any]) -> dict[str, Any]:
    return {task: data["train"]["buckets"] for task, data in noted.items()}
