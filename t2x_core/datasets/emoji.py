"""Emoji as captioned images: Twemoji at 64 × 64 pixels with their names, from npm (emoji-datasource-twitter)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2x_core.datasets.archive import members
from t2x_core.datasets.npm import NpmPackage
from t2x_core.datasets.written import new_folder
from t2x_core.errors import UserError
from t2x_core.plain_files import parse_json, sha256_of

PACKAGE = NpmPackage(
    "emoji-datasource-twitter", "16.0.0", "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
)
LICENCE = (
    "images    Twemoji, © Twitter, Inc. and other contributors, CC BY 4.0 (https://creativecommons.org/licenses/by/4.0)",
    "names     emoji-data, © Cal Henderson, MIT",
)
"""What is to be said wherever the images are shown."""
_IMAGES = "package/img/twitter/64/"
_NAMES, _TERMS = _TEXTS = ("package/emoji.json", "package/LICENSE")
_NAME = re.compile(r"[0-9a-f]{1,6}(-[0-9a-f]{1,6})*\.png")


def write_emoji(archive: Path, out: Path) -> tuple[int, str]:
    """Writes each emoji as HEX.png, its captions as HEX.txt, and SHA256SUMS, ORIGIN.json and LICENSE.

    Emoji that differ in skin tone alone are one, the yellow one. The first caption is the name of the emoji, the second
    its short name, if that says something else.

    Returns:
        How many emoji, and the SHA-256 of the archive.

    Raises:
        UserError: the archive is damaged or another one, or the folder cannot be written.
    """
    digest = _hash(archive)
    texts: dict[str, bytes] = {}
    images: dict[str, bytes] = {}
    for name, content in members(archive, lambda name: name in _TEXTS or name.startswith(_IMAGES)):
        if name in _TEXTS:
            texts[name] = content
        elif _NAME.fullmatch(image := name.removeprefix(_IMAGES)):
            images[image] = content
    captions = _captions(archive, texts.get(_NAMES, b"[]"))
    both = sorted(captions.keys() & images.keys())
    if not both:
        raise UserError(f"there are no emoji in {archive}", hint=f"it should be {PACKAGE.file_name}")
    if missing := sorted(captions.keys() - images.keys()):
        raise UserError(f"{archive} has no image for {len(missing)} of {len(captions)} names, such as {missing[0]}")
    with new_folder(out) as folder:
        for image in both:
            folder.add(image, images[image])
            folder.add(image.replace(".png", ".txt"), "".join(f"{line}\n" for line in captions[image]).encode())
        folder.add("LICENSE", "\n".join([*LICENCE, "", ""]).encode() + texts.get(_TERMS, b""))
        origin = {"package": PACKAGE.name, "archive": archive.name, "sha256": digest, "emoji": len(both)}
        folder.add("ORIGIN.json", (json.dumps(origin, indent=1) + "\n").encode())
    return len(both), digest


def _hash(archive: Path) -> str:
    """UserError if it cannot be read."""
    try:
        return sha256_of(archive)
    except OSError as error:
        raise UserError(f"{archive} cannot be read: {error.strerror}", where="command line") from error


def _captions(archive: Path, content: bytes) -> dict[str, list[str]]:
    """Image file → captions, by emoji.json."""
    try:
        found = [(row["image"], _lines(row)) for row in parse_json(content, list) if row["has_img_twitter"]]
        return {image: lines for image, lines in found if _NAME.fullmatch(image)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"emoji.json in {archive} is not what it should be: {error}") from error


def _lines(row: Mapping[str, Any]) -> list[str]:
    lines = [_plain(row["name"])]
    short = _plain(re.sub("[-_]", " ", row["short_name"]))
    if row["category"] != "Flags" and short not in lines:  # "flag eg" says less than "egypt flag"
        lines.append(short)
    return lines


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
