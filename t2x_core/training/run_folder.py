"""A run's folder: where it is, what it holds, and whether a recipe may go on in it."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from t2x_core.errors import UserError
from t2x_core.plain_files import make_empty, read_json, write_whole
from t2x_core.recipe import Recipe, compose, dump_yaml, flat
from t2x_core.recipe.catalog import shipped_folder
from t2x_core.remote import Url
from t2x_core.runs import ENVIRONMENT_FILE, RECIPE_FILE
from t2x_core.runs import SAMPLES as SAMPLES
from t2x_core.runs import TENSORBOARD as TENSORBOARD
from t2x_core.terminal import command

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("t2x")

LOCK = ".lock"
PROFILE, LOG = "profile", "log.txt"
NAN_REPORT, FINISHED = "nan_report.jsonl", "finished.json"
PACKAGES = ("t2x", "torch", "torchvision", "lightning", "timm", "omegaconf", "numpy", "pillow")
MAY_CHANGE = (
    "backbone.weights",
    "trainer.max_steps",
    "trainer.accumulation",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.shards",
    "trainer.gradient_checkpointing",
    "trainer.compile",
    "trainer.workers",
    "trainer.stall_minutes",
    "trainer.threads",
    "cache.folder",
    "cache.latents",
    "cache.text",
    "cache.identity",
    "guard",
    "logging",
)
"""Keys of a recipe that may differ when a run goes on; any other would make it another run."""


FIXED = (
    *("backbone", "codec", "text_encoders", "diffusion.prediction", "diffusion.path", "diffusion.schedule"),
    *("optimizer.name", "optimizer.freeze", "optimizer.lr_scale"),
)
"""Keys on which the content of a checkpoint or its meaning depends: nobody can allow them to differ."""


def recipe_name(recipe: Path) -> str:
    """The name under which a recipe's runs are kept; of a run's own recipe, that of the recipe it came from.

    Shipped recipes in folders keep the folder's name: text_to_video/quickstart → text_to_video_quickstart.
    """
    recipe = recipe.resolve()
    if recipe.name == RECIPE_FILE:
        return recipe.parent.parent.name
    shipped = recipe.is_relative_to(shipped_folder().resolve())
    return "_".join(recipe.relative_to(shipped_folder().resolve()).with_suffix("").parts) if shipped else recipe.stem


def new_run(root: Path, recipe_name: str, folder: Path | None = None) -> Path:
    """A new folder: `folder`, or else `root/<recipe>/<date-time>`; never one that holds something."""
    if folder is not None:
        return _chosen(folder)
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    parent = root / recipe_name
    for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
        folder = parent / f"{stamp}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"cannot make {folder}: {error.strerror}", hint="set logging.runs_dir") from error
        return folder
    raise UserError(f"{parent} is full of runs of {stamp}")


def _chosen(folder: Path) -> Path:
    if (folder / RECIPE_FILE).is_file():
        again = command("--resume", folder)
        raise UserError(f"{folder} holds a run", hint=f"go on with it by {again}, or choose another folder")
    make_empty(folder)
    return folder


def check_root(root: Path) -> None:
    """UserError if no run could be written below `root`."""
    there = next(parent for parent in (root.absolute(), *root.absolute().parents) if parent.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise UserError(f"cannot write into {there}: {error.strerror}", hint="set logging.runs_dir") from error


def write_run(
    folder: Path,
    recipe: Mapping[str, Any],
    plugins: Iterable[str] = (),
    weights: Mapping[str, str] | None = None,
) -> None:
    """What a run holds from the start: the resolved recipe, and what it runs on.

    Args:
        plugins: names of packages.
        weights: place and hash of the weights that it begins with (`Start.record`).
    """
    (folder / SAMPLES).mkdir(exist_ok=True)
    noted = {"began": time.time(), **environment(plugins), **({"weights": dict(weights)} if weights else {})}
    write_whole(folder / ENVIRONMENT_FILE, json.dumps(noted, indent=1) + "\n")
    write_whole(folder / RECIPE_FILE, dump_yaml(recipe))


def first_weights(folder: Path, recipe: Recipe) -> tuple[str | None, str | None]:
    """Where a run's first weights come from, and the hash that they had when it began (None: not known).

    What its folder says, which names one checkpoint, or else the recipe.
    """
    file = folder / RECIPE_FILE
    node = compose(file).find("backbone.weights") if file.is_file() else None
    place = recipe.backbone.weights if node is None else node.value
    try:
        noted = read_json(folder / ENVIRONMENT_FILE)["weights"]
        return place, noted["sha256"] if noted["place"] == place else None
    except (OSError, ValueError, KeyError, TypeError):
        return place, None


def places(tree: Any, path: str = "") -> set[str]:
    """Keys of a recipe that say where something lies, not what it is: "tasks.text-to-image.data.images.folder"."""
    if isinstance(tree, Path | Url):
        return {path}
    if is_dataclass(tree):
        tree = {field.name: getattr(tree, field.name) for field in fields(tree)}
    if not isinstance(tree, Mapping):
        return set()
    return {k for key, sub in tree.items() for k in places(sub, f"{path}.{key}" if path else str(key))}


def allowed(key: str, allow: Iterable[str]) -> bool:
    """Whether `key` is, is in, or ends in what the user allows to differ: "lr", "optimizer", "data", "tasks.x.data"."""
    parts = key.split(".")
    return any(
        parts[i : i + len(what)] == what for what in (a.split(".") for a in allow) for i in range(len(parts))
    ) and not any(f"{key}.".startswith(f"{fixed}.") for fixed in FIXED)


def check_resume(
    folder: Path,
    own: Mapping[str, Any],
    recipe: Mapping[str, Any],
    places: Collection[str] = (),
    allow: Collection[str] = (),
) -> None:
    """UserError that names the keys in which `recipe` differs from the run's own and must not.

    Args:
        places: keys that may differ since the data has its own check (`places`).
        allow: what the user allows to differ; the log says what does.
    """
    old, new = flat(own), flat(recipe)
    different = sorted(
        key
        for key in {*old, *new}
        if old.get(key) != new.get(key)
        and key not in places
        and not any(key == free or key.startswith(f"{free}.") for free in MAY_CHANGE)
    )
    for key in [key for key in different if allowed(key, allow)]:
        log.info("%-10s %s: %s → %s", "changed", key, old.get(key), new.get(key))
        different.remove(key)
    if different:
        changes = ", ".join(f"{key} ({old.get(key)} → {new.get(key)})" for key in different[:5])
        free = [key for key in different if allowed(key, [key])]
        what = ", ".join(free[:3]) or "not possible here: the weights would not fit"
        raise UserError(
            f"{folder} cannot go on with another recipe: {changes}",
            hint=f"start a new run, change only {', '.join(MAY_CHANGE)}, or --allow what differs ({what})",
        )


def finished(folder: Path) -> int | None:
    """The optimizer steps after which a run was done, its last samples included; None: it is not known to be."""
    try:
        steps = read_json(folder / FINISHED)["steps"]
    except (OSError, ValueError, KeyError):
        return None
    return steps if isinstance(steps, int) else None


def note_finished(folder: Path, steps: int) -> None:
    """Notes that a run is done. If there is no room for that, `--resume` makes its last samples again."""
    try:
        write_whole(folder / FINISHED, json.dumps({"steps": steps}) + "\n")
    except OSError as error:
        log.warning("%s cannot be written: %s", folder / FINISHED, error.strerror)


def update_recipe(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Keeps the recipe with which a run goes on; where its first weights came from stays."""
    file = folder / RECIPE_FILE
    weights = compose(file).find("backbone.weights")
    begun = {**recipe["backbone"], "weights": None if weights is None else weights.value}
    text = dump_yaml({**recipe, "backbone": begun})
    if file.read_text(encoding="utf-8") != text:
        write_whole(file, text)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second process out of the folder; UserError if there is one. The lock goes with its process."""
    try:
        file = (folder / LOCK).open("a+")
    except OSError as error:
        hint = "make it writable, or go on with a copy of it"
        raise UserError(f"cannot write into {folder}: {error.strerror}", hint=hint) from error
    try:
        if fcntl is not None:
            try:
                # Of the process, not of the file: loader processes that outlive a kill for a moment do not hold it.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                who = file.read().strip() or "another process"
                raise UserError(
                    f"{folder} is being trained in by {who}", hint="wait for it, or stop it first"
                ) from error
            except OSError:
                pass  # some network drives have no locks
        with suppress(OSError):  # of a full disk, which is no reason not to train
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
        yield
    finally:
        with suppress(OSError):
            file.close()


def environment(plugins: Iterable[str] = ()) -> dict[str, Any]:
    """Versions (those of packages of plugins, too), machine and git state, as plain values."""
    versions = {}
    for package in dict.fromkeys((*PACKAGES, *plugins)):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "versions": {"python": platform.python_version(), **versions},
        "machine": {
            "system": platform.platform(),
            "cpu_threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
        "git": {"commit": _git("rev-parse", "HEAD"), "changed": _git("status", "--porcelain", "--untracked-files=no")},
    }


def _git(*words: str) -> str | None:
    try:
        answer = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
