"""What must be the same on all ranks, or they would train apart: recipe, software, data."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import t2x_core
from t2x_core.assembly import Assembly
from t2x_core.data.mixture import MixedData
from t2x_core.recipe import flat, to_plain
from t2x_core.terminal import printable
from t2x_core.training.precision import has_gpu, resolve_precision

Facts = dict[str, dict[str, Any]]
"""Part ("recipe" …) → name → value."""
REPAIR = {
    "recipe": "start all ranks with the same recipe and overrides, and edit neither while they start",
    "options": "start all ranks by the same command",
    "software": "install the same on all machines",
    "hardware": "set trainer.precision and trainer.accelerator to what all machines can do",
    "data": "give all ranks the same files",
}
"""What to do about a part that differs."""
ABSENT = "not set"


def facts(assembly: Assembly, data: MixedData, options: Mapping[str, Any]) -> Facts:
    """Those of this rank; `data` is checked (`MixedData.check`)."""
    trainer = assembly.recipe.trainer
    return {
        "recipe": flat(to_plain(assembly.recipe)),
        "options": dict(options),
        "software": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{package: version(package) for package in ("t2x", "lightning")},
            "the code of t2x": _code(),
        },
        "hardware": {
            "precision": resolve_precision(trainer.precision, trainer.accelerator),
            "GPU": has_gpu(trainer.accelerator),
        },
        "data": flat(data.fingerprint()),
    }


def difference(rank: int, own: Facts, first: Facts) -> str | None:
    """One line on what rank `rank` has otherwise than the first, and what to do; None if nothing."""
    for part, repair in REPAIR.items():
        here, there = own[part], first[part]
        names = [name for name in {**there, **here} if here.get(name, ABSENT) != there.get(name, ABSENT)]
        if names:
            listed = ", ".join(
                f"{printable(name, 60)} ({_short(here.get(name, ABSENT))}, not {_short(there.get(name, ABSENT))})"
                for name in names[:5]
            )
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            return f"rank {rank} does not have the same {part} as rank 0: {listed}{more}; {repair}"
    return None


def _short(value: Any) -> str:
    return printable(str(value), 60)


def _code() -> str:
    """A hash of t2x's own files: checkouts of one version may differ."""
    digest = hashlib.sha256()
    root = Path(t2x_core.__file__).parent
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]
