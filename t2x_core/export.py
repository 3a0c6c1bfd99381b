"""A model as a folder that is given away: weights, recipe, model card, and what it needs of this machine's files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, fields, is_dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from PIL import Image

from t2x_core.assembly import Assembly
from t2x_core.backbone.pretrained import config_json
from t2x_core.encoders.weights_config import WeightsConfig
from t2x_core.model_card import model_card
from t2x_core.module import T2XModule
from t2x_core.plain_files import sync
from t2x_core.recipe import Recipe, dump_yaml, portable
from t2x_core.run_facts import RunFacts
from t2x_core.runs import MODEL_FILE, RECIPE_FILE, SAMPLES
from t2x_core.tensor_files import checksum, save_tensors
from t2x_core.types import Bucket

PARTS = "parts"
"""Folder with copies of the files that codec, text encoders and tasks are made from."""
CARD = "README.md"


def export(
    assembly: Assembly,
    module: T2XModule,
    folder: Path,
    trained: Mapping[str, Sequence[Bucket]],
    facts: RunFacts,
    *,
    license: str | None = None,
    name: str | None = None,
) -> None:
    """Writes the folder. No file in it says where on this machine anything was.

    Raises:
        OSError: it cannot be written; then the folder is as it was before.
    """
    with whole_folder(folder) as beside:
        carried = list(_carried(assembly.recipe))
        for part in carried:
            _copy(part.files, beside)
        recipe = dump_yaml(portable(assembly.recipe, moved={part.key: part.place for part in carried}))
        records = {path: part.record() for path, part in module.referenced().items()}
        for path, record in records.items():
            inside = next((part.place for part in carried if part.key.startswith(f"{path}.")), None)
            record["origin"] = inside or _without_place(record["origin"])
        weights = {key: tensor.detach().cpu() for key, tensor in module.stored().items()}
        shapes = {task: [astuple(bucket) for bucket in buckets] for task, buckets in trained.items()}
        sums = {key: checksum(tensor) for key, tensor in weights.items()}
        about = {"checksums": sums, "ema": True, "referenced": records, "shapes": shapes, "facts": facts.plain()}
        save_tensors(weights, beside / MODEL_FILE, metadata={"format": "pt", "t2x": json.dumps(about)})
        (beside / "config.json").write_text(config_json(module.backbone.config))
        (beside / RECIPE_FILE).write_text(recipe, encoding="utf-8")
        card = model_card(
            assembly,
            module,
            facts,
            recipe,
            name=name or folder.resolve().name,
            origins={path: record["origin"] for path, record in records.items() if record["origin"]},
            images=_copy_images(facts.sheets, beside),
            license=license,
        )
        card.save(beside / CARD)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write to, whose files go to `folder` when all of them are there."""
    real = folder.resolve()
    beside, new = (
        real.with_name(f".{real.name[:40]}.part"),
        [path for path in (real, *real.parents) if not path.exists()],
    )
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        yield beside
        for path in sorted(beside.rglob("*")):
            target = real / path.relative_to(beside)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file():
                sync(path)
                path.replace(target)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        for path in new:
            with suppress(OSError):
                path.rmdir()
        raise
    shutil.rmtree(beside, ignore_errors=True)


@dataclass(frozen=True)
class Carried:
    """Files of this machine that a setting names, and that go along."""

    key: str
    """The setting."""
    place: str
    """What it says in the exported recipe."""
    files: Mapping[str, Path]
    """Path in the folder → file."""


def _carried(recipe: Recipe) -> Iterator[Carried]:
    blocks: list[tuple[str, Any]] = [("codec", recipe.codec)]
    blocks += [(f"text_encoders.{name}", encoder) for name, encoder in recipe.text_encoders.items()]
    blocks += [(f"tasks.{name}", task) for name, task in recipe.tasks.items()]
    for path, block in blocks:
        for key, value in _settings(block, path):
            root = f"{PARTS}/{path}"
            if isinstance(value, Path):
                files = sorted(file for file in value.rglob("*") if file.is_file()) if value.is_dir() else [value]
                base, place = value.parent, f"{root}/{value.name}"
            else:
                files = value.files() or []
                base = value.folder if value.subfolder else value.folder.parent
                key, place = f"{key}.folder", root if value.subfolder else f"{root}/{value.folder.name}"
            yield Carried(key, place, {f"{root}/{file.relative_to(base).as_posix()}": file for file in files})


def _settings(block: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Settings below `path` that name files that are there; not those of training data."""
    for field in fields(block):
        key, value = f"{path}.{field.name}", getattr(block, field.name)
        if field.name == "data":
            continue
        if isinstance(value, WeightsConfig):
            if value.folder is not None:
                yield key, value
        elif isinstance(value, Path):
            if value.exists():
                yield key, value
        elif is_dataclass(value):
            yield from _settings(value, key)


def _copy(files: Mapping[str, Path], root: Path) -> None:
    for name, file in files.items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    forget_places(root)


def forget_places(folder: Path) -> None:
    """Removes from JSON files what a library noted of where it had loaded them from."""
    for file in folder.rglob("*.json"):
        plain = _json(file)
        if isinstance(plain, dict) and any(_is_place(value) for value in plain.values()):
            kept = {key: value for key, value in plain.items() if not _is_place(value)}
            file.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.suffix == ".json" else None
    except (ValueError, RecursionError):
        return None


def _is_place(value: Any) -> bool:
    """Whether a value is an absolute path, of whatever system."""
    if not isinstance(value, str) or "\n" in value or len(value) < 3:
        return False
    return PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute() or value.startswith("~/")


def _without_place(origin: str) -> str:
    return PurePosixPath(origin).name if _is_place(origin) else origin


def _copy_images(sheets: Mapping[str, Path], root: Path) -> dict[str, str]:
    """Task → its image in the folder. PNGs are written anew, without what was noted in them."""
    found = {}
    for task, file in sheets.items():
        name = f"{SAMPLES}/{task}{file.suffix}"
        (root / SAMPLES).mkdir(exist_ok=True)
        if file.suffix == ".png":
            try:
                image = Image.open(file).convert("RGB")
            except (OSError, ValueError):  # it is damaged
                continue
            image.info = {}
            image.save(root / name)
        else:
            shutil.copyfile(file, root / name)
        found[task] = name
    return found
