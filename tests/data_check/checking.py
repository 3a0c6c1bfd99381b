"""Runs `t2x data check` in this process, for tests."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from t2x_core.cli.main import main
from tests.conftest import IMAGES, TINY_IMAGES

RECIPE = ["text_to_image/folder", *TINY_IMAGES]


def run_check(out: Path, *words: str, recipe: list[str] = RECIPE) -> tuple[int, dict[str, dict[str, str]]]:
    """The exit code, and kind of finding → file → detail."""
    code = main(["data", "check", *recipe, *words, "--out", str(out), "--workers", "2"])
    found: dict[str, dict[str, str]] = defaultdict(dict)
    if (out / "findings.jsonl").exists():
        for line in (out / "findings.jsonl").read_text().splitlines():
            finding = json.loads(line)
            found[finding["kind"]][finding["file"]] = finding["detail"]
    return code, found


def place(settings: dict[str, object]) -> list[str]:
    """The settings of `shard_set.write` as those of a recipe."""
    keys = ["folder=null"] if "folder" not in settings else []
    return [f"{IMAGES}.{key}" for key in (*keys, *(f"{name}={value}" for name, value in settings.items()))]
