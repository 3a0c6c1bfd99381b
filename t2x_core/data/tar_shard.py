"""Samples in a tar file by WebDataset's convention: members of one name up to its first dot belong together."""

from __future__ import annotations

import os
import tarfile
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from t2x_core.data.files import LONGEST_CAPTIONS, captions_in, shown
from t2x_core.data.image_files import ImageFile
from t2x_core.data.manifest import Columns, captions_of, group_of, size_of
from t2x_core.errors import UserError
from t2x_core.media import TarMember, open_place, special_file
from t2x_core.plain_files import parse_json
from t2x_core.wording import counted, shorten

BLOCK = 512
"""Bytes of a header, and what the data of members is padded to a multiple of."""
TEXTS = ("txt", "json")
"""Endings of members with captions, without the dot."""
PACKED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd"}
"""First bytes of compressed files."""


Notes = dict[str, Any]
"""Of a shard: "damaged", a list of (name, what is wrong), "" for the shard itself; "remarks"; and "alone", the number
of samples without an image or a video."""


@dataclass
class _Sample:
    """Members that belong together: the image or the video, and the texts beside it."""

    media: TarMember | None = None
    texts: dict[str, TarMember] = field(default_factory=dict)
    """By their ending, as in TEXTS."""


def list_tar(path: str, columns: Columns, suffixes: Collection[str]) -> tuple[list[ImageFile], Notes]:
    """The images or videos in a tar file with their captions, in its order.

    Args:
        columns: keys of a `.json` member.
        suffixes: endings of the images or videos, with the dot. Of several in a sample `x.png` counts before
            `x.mask.png`, and then the first.

    Captions are the lines of `.txt`, and those in `.json`. What can be found behind a damaged header is found. Of two
    members of one name the later counts, as for `tar -x`.

    Raises:
        UserError: it cannot be read, or is compressed, so that nothing in it can be read by itself.
    """
    if why := special_file(path):
        raise UserError(f"{shown(path)} {why}")
    try:
        with open_place(path) as stream:
            if packed := PACKED.get(stream.read(2)):
                raise UserError(
                    f"{shown(path)} is compressed ({packed})", hint="unpack it: members are read one by one"
                )
            members, damage = _members(path, stream)
            samples, further = _grouped(members, suffixes)
            files, damaged = [], [("", damage)] if damage else []
            for sample in samples:
                if sample.media is not None:
                    try:
                        files.append(_file(stream, sample.media, sample.texts, columns))
                    except UserError as error:
                        damaged.append((shown(error.where or sample.media.name), str(UserError(error.message))))
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read: {error.strerror or error}") from error
    remarks = [f"{counted(further, 'member')} passed over, since the sample has another"] if further else []
    alone = sum(sample.media is None for sample in samples)
    return files, {"damaged": damaged, "remarks": remarks, "alone": alone}


def _grouped(members: Mapping[str, TarMember], suffixes: Collection[str]) -> tuple[list[_Sample], int]:
    """The samples, and how many images or videos are passed over."""
    samples: dict[str, _Sample] = defaultdict(_Sample)
    further = 0
    for name, member in members.items():
        folder, base = os.path.split(name)
        stem, _, ending = base.partition(".")
        key, ending = f"{folder}/{stem}", ending.lower()
        if f".{ending.rpartition('.')[2]}" in suffixes:
            other = samples[key].media
            further += other is not None
            if other is None or ending.count(".") < os.path.basename(other.name).count(".") - 1:
                samples[key].media = member
        elif ending in TEXTS:
            samples[key].texts[ending] = member
    return list(samples.values()), further


def _file(stream: BinaryIO, media: TarMember, texts: Mapping[str, TarMember], columns: Columns) -> ImageFile:
    """Raises UserError, with the member's name as its place, if a text cannot be read."""
    captions: tuple[str, ...] = ()
    if (member := texts.get("txt")) is not None:
        captions = captions_in(_text(stream, member), member.name)
    size, group = None, ""
    if (member := texts.get("json")) is not None:
        try:
            row = parse_json(_text(stream, member))
        except ValueError as error:
            raise UserError(f"is not JSON ({shorten(str(error))})", where=member.name) from error
        captions = tuple(dict.fromkeys((*captions, *captions_of(member.name, row, columns))))
        size, group = size_of(member.name, row, columns), group_of(member.name, row, columns)
    return ImageFile(media, shown(media.name), captions, size, group)


def _text(stream: BinaryIO, member: TarMember) -> bytes:
    if member.length > LONGEST_CAPTIONS:
        raise UserError(f"has more than {LONGEST_CAPTIONS:,} bytes", where=member.name)
    stream.seek(member.start)
    if len(text := stream.read(member.length)) < member.length:
        raise UserError("is cut short", where=member.name)
    return text


def _members(path: str, stream: BinaryIO) -> tuple[dict[str, TarMember], str | None]:
    """Regular files by name, and what is wrong."""
    found: dict[str, TarMember] = {}
    damage, start, end = None, 0, stream.seek(0, os.SEEK_END)
    if not end:
        raise UserError(f"{shown(path)} is empty")
    while True:
        stream.seek(start)
        try:
            tar = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115 (the stream stays open)
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined] # a million take a gigabyte
                if info.isreg() and not _is_hidden(info.name):
                    if info.issparse():
                        damage = damage or "holds sparse files, which are not read (pack it anew)"
                        continue
                    found.pop(info.name, None)
                    found[info.name] = TarMember(path, info.name, info.offset_data, info.size)
        except (tarfile.TarError, EOFError) as error:
            if start or found:
                return found, damage or f"is cut short after {len(found)} files"
            if _next_header(stream, 0) is None:
                raise UserError(f"{shown(path)} is no tar file ({error})") from error
        else:
            start = tar.offset
        stream.seek(start)
        block = stream.read(BLOCK)
        if not block.strip(b"\0"):
            return found, damage or (None if block else f"is cut short after {len(found)} files")
        damage = damage or f"has a damaged header after {len(found)} files; what follows is read"
        following = _next_header(stream, start)
        if following is None:
            return found, damage
        start = following


def _next_header(stream: BinaryIO, start: int) -> int | None:
    """Where the next member begins behind a damaged header at `start`."""
    stream.seek(start)
    while len(block := stream.read(BLOCK)) == BLOCK:
        if block[257:262] == b"ustar":
            with suppress(tarfile.HeaderError):
                tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
                return start
        start += BLOCK
    return None


def _is_hidden(name: str) -> bool:
    """Whether it is for the system or a library: `._a.jpg`, `__index__`."""
    base = name.rpartition("/")[2]
    return base.startswith(".") or (base.startswith("__") and base.endswith("__"))
