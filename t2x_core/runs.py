"""Where runs are. Nothing here imports torch."""

from __future__ import annotations

import os
from pathlib import Path

from t2x_core.errors import UserError, did_you_mean
from t2x_core.hub import HubPlace, parse_hub
from t2x_core.paths import user_path
from t2x_core.plain_files import read_json

RECIPE_FILE = "recipe.yaml"
"""A run's folder is one that holds this: the resolved recipe."""
ENVIRONMENT_FILE = "environment.json"
"""What a run was begun on, and when."""
DATA_FILE = "data.json"
"""Which samples a run began with: buckets, and hashes."""
MODEL_FILE, CHECKPOINT_FILE = "model.safetensors", "index.json"
"""What an exported folder holds beside a recipe; what a checkpoint's folder holds."""
SAMPLES, TENSORBOARD = "samples", "tensorboard"
"""Folders of a run: images of samples, and TensorBoard's events."""
PYTORCH = (".pt", ".pth", ".bin", ".ckpt")
"""Endings of PyTorch's own files."""


def find_run(name: str, root: Path = Path("runs")) -> Path:
    """A run by its folder, by the folder of its recipe (the newest in it), or by the name of its recipe."""
    try:
        given = user_path(name)
    except UserError as error:
        raise UserError(error.message, where="command line", hint=error.hint) from error
    for folder in (given, root / given, root / name.replace("/", "_")):
        if os.path.isfile(folder / RECIPE_FILE):
            return folder
        runs = [path.parent for path in folder.glob(f"*/{RECIPE_FILE}")] if os.path.isdir(folder) else []
        if runs:
            return max(runs, key=_began)
    hint = f"give the folder of a run, or a recipe that has one in {root}/"
    around = [str(folder) for folder in given.parents if os.path.isfile(folder / RECIPE_FILE)]
    hint = f"write {around[0]}" if around else hint
    if os.path.isfile(given):
        raise UserError(f"{name} is a file, not the folder of a run", where="command line", hint=hint)
    if os.path.isdir(given):
        raise UserError(f"{name} holds no run: there is no {RECIPE_FILE} in it", where="command line", hint=hint)
    if "=" in name:
        hint = "write key=value before the options"
    recipes = [folder.name for folder in root.glob("*") if folder.is_dir()]
    hint = did_you_mean(name, recipes) or hint
    raise UserError(f'there is no run "{name}"', where="command line", hint=hint)


def _began(run: Path) -> tuple[float, str]:
    """When a run was begun: as it has noted, else when its recipe was written; its name where that is the same."""
    try:
        noted = read_json(run / ENVIRONMENT_FILE)["began"]
        began = float(noted) if isinstance(noted, int | float) else None
    except (OSError, ValueError, KeyError):
        began = None
    return (run / RECIPE_FILE).stat().st_mtime if began is None else began, run.name


def find_weights(weights: str, root: Path = Path("runs")) -> Path | HubPlace:
    """What `backbone.weights` of a recipe names, without opening it: a place on the hub, a file of weights, a folder
    with safetensors files, a checkpoint's folder, an exported folder, or a run as `find_run` finds it.

    Raises:
        UserError: with the key `backbone.weights`; there is nothing of that name, or no weights in it.
    """
    try:
        if (place := parse_hub(weights)) is not None:
            return place
        given = user_path(weights)
        if os.path.isfile(given):
            if given.suffix.lower() in (".safetensors", *PYTORCH):
                return given
            kinds = ", ".join((".safetensors", *PYTORCH))
            raise UserError(f"{given} is no file of weights", hint=f"their names end in {kinds}")
        if given.suffix.lower() in (".safetensors", *PYTORCH):
            raise UserError(f"there is no file {given}")
        if os.path.isfile(given / CHECKPOINT_FILE):
            return given
        if not os.path.isfile(given / RECIPE_FILE) and any(given.glob("*.safetensors")):
            return given
        try:
            return find_run(str(given), root)
        except UserError as error:  # which takes the name for one from the command line
            on_hub = len(given.parts) == 2 and not given.is_absolute() and not os.path.exists(given)
            hint = f"if it is on the hub, write hf://{weights}" if on_hub else error.hint
            raise UserError(error.message, hint=hint) from error
    except UserError as error:
        raise UserError(error.message, key="backbone.weights", hint=error.hint) from error
