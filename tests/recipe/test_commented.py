"""Settings as a person reads them: a block of a recipe with comments."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest

from t2x_core.encoders.encoder_config import ByteWordsConfig
from t2x_core.recipe import ComponentConfig, Range, build, commented, compose, to_plain


@dataclass(frozen=True)
class Crop:
    side: Annotated[int, Range(min=1)] = 8
    """Pixels of a side."""
    corner: Literal["left", "right"] = "left"
    """Which corner."""


@dataclass(frozen=True)
class Settings:
    """Settings of all kinds."""

    folder: Path
    """Where the images are."""
    share: Annotated[float, Range(above=0, max=0.5)] | None = None
    """How many of them, a rather long explanation that does not fit on one line and has to be continued on a second."""
    names: tuple[str, ...] = ("a", "b")
    """Names of them."""
    crop: Crop = field(default_factory=lambda: Crop(side=16))
    """What is cut."""
    again: Crop | None = None
    """What is cut then."""


SHOWN = """\
# Where the images are.
folder:  # required: a path
# How many of them, a rather long explanation that does not fit on one line and has to be continued on a
# second.
share: null  # a number or null, at most 0.5, above 0
# Names of them.
names: [a, b]  # a list of texts
# What is cut.
crop:
  # Pixels of a side.
  side: 16  # an integer, at least 1
  # Which corner.
  corner: left  # "left" or "right"
# What is cut then.
again: null  # or a block:
#   # Pixels of a side.
#   side: 8  # an integer, at least 1
#   # Which corner.
#   corner: left  # "left" or "right"
"""


def test_each_setting_is_shown_with_meaning_default_type_and_range() -> None:
    assert commented(Settings) + "\n" == SHOWN


def test_what_is_shown_can_be_used(tmp_path: Path) -> None:
    own = SHOWN.replace("folder: ", "folder: x ").replace("again: null", "again:")
    own = re.sub("^# (  .*)$", r"\1", own, flags=re.MULTILINE)  # as a person takes away the comment signs of the block
    (tmp_path / "own.yaml").write_text(own)
    built = build(Settings, compose(tmp_path / "own.yaml"))
    assert built == Settings(folder=tmp_path / "x", again=Crop())


@pytest.mark.parametrize("schema", [ByteWordsConfig])
def test_a_component_is_shown_with_its_defaults(schema: type[ComponentConfig], tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(commented(schema))
    assert compose(tmp_path / "own.yaml").root.plain() == to_plain(schema())
