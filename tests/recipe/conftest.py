"""A folder to write recipes in, and a small world of tasks and components to check them against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from t2x_core.errors import UserError, did_you_mean
from t2x_core.recipe import CodecConfig, Kind, Range, Recipe, TaskConfig, TextEncoderConfig, check_recipe, compose

VALID = """\
# Learns images
tasks:
  images: {}
backbone: {preset: S}
codec: {name: identity}
trainer:
  max_steps: 10
  global_batch: 8
"""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    folder: Path | None = None
    """Folder of images."""
    sides: list[Annotated[int, Range(min=1)]] = field(default_factory=lambda: [32])
    """Sides of the images, in pixels."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of columns."""
    note: str = ""
    """Free text."""
    crop: float | bool | list[int] | list[str] = False
    """Share that is cut away, whether to cut at all, pixels on each side, or names of parts to keep."""
    extra: Any = None
    """Whatever."""


@dataclass(frozen=True, kw_only=True)
class ImagesConfig(TaskConfig):
    data: DataConfig = field(default_factory=DataConfig)
    """The images."""
    loss: Literal["mse", "huber"] = "mse"
    """Which loss."""

    def __post_init__(self) -> None:
        if self.loss == "huber" and self.weight > 5:
            raise ValueError(f"a weight of {self.weight} is too much for huber")

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        return {f"data.sides[{i}]": (side, side) for i, side in enumerate(self.data.sides)}


@dataclass(frozen=True, kw_only=True)
class IdentityConfig(CodecConfig):
    @property
    def spatial_factor(self) -> int:
        return 1


@dataclass(frozen=True, kw_only=True)
class BytesConfig(TextEncoderConfig):
    width: Annotated[int, Range(min=1)]
    """Width of a token."""


SCHEMAS: dict[Kind, dict[str, type]] = {
    "task": {"images": ImagesConfig},
    "codec": {"identity": IdentityConfig},
    "text_encoder": {"bytes": BytesConfig},
}


def schema_of(kind: Kind, name: str) -> type:
    if name not in SCHEMAS[kind]:
        raise UserError(f'no {kind} "{name}"', hint=did_you_mean(name, SCHEMAS[kind]))
    return SCHEMAS[kind][name]


@pytest.fixture
def valid() -> str:
    """A recipe without a mistake."""
    return VALID


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of shipped recipes."""
    folder = tmp_path / "package" / "recipes"
    (folder / "_base_").mkdir(parents=True)
    (folder / "small").mkdir()
    (folder / "quickstart.yaml").write_text(VALID)
    (folder / "small" / "folder.yaml").write_text("\n" + VALID.replace("# Learns images", "seed: 7"))
    (folder / "_base_" / "cpu.yaml").write_text("trainer: {accelerator: cpu, threads: 2}\n")
    monkeypatch.setattr("t2x_core.recipe.catalog.shipped_folder", lambda: folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty, so that messages show short paths."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def load(here: Path) -> Callable[..., Recipe]:
    """Writes the text (or bytes) as recipe.yaml and loads it with overrides."""

    def write_and_load(text: str | bytes, *overrides: str) -> Recipe:
        (here / "recipe.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        recipe = check_recipe(compose("recipe.yaml", overrides), schema_of)
        assert recipe is not None
        return recipe

    return write_and_load
