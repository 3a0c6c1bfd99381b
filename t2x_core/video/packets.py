"""When the frames of a video are shown and where decoding may begin, by its packets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

INDEXED = ("mov", "matroska")
"""Containers that keep an index, or build one while they are read, and give every packet its time."""
CLEAN = frozenset(("vp8", "vp9", "av1", "hevc", "mpeg1video", "mpeg2video", "mpeg4"))
"""Codecs in which all that is shown after a key frame can be decoded from it on: no frame refers past it (VP8, VP9,
AV1), or only those that are shown before it do (open GOPs). Of H.264 this holds for IDR frames only: recovery points
of an intra refresh are marked as key frames too, and later frames may refer past an I frame."""


@dataclass(frozen=True)
class Packet:
    """What is known of a packet before it is decoded."""

    pts: int | None
    dts: int | None
    key: bool
    """Whether decoding may begin here."""
    marked: bool
    """Whether the container says so."""
    shown: bool
    """False: decoded for others only (before the start of an edit list, or an invisible frame of VP8)."""

    @property
    def seek(self) -> int:
        """The time from which a container finds it, whichever of the two it keeps in its index."""
        return min(stamp for stamp in (self.pts, self.dts) if stamp is not None)


@dataclass(frozen=True)
class PacketTable:
    """The frames of a stream that its packets promise."""

    stamps: NDArray[np.int64]
    """(frames,) presentation times in units of the stream's time base, rising."""
    keys: Sequence[Packet]
    """Where decoding may begin, rising."""
    closed: bool
    """Whether all that the container marks as key frames are clean and shown before everything that follows them, and
    every packet is shown: then counting packets and seeking key frames is right."""

    def key_before(self, stamp: int) -> Packet | None:
        """The last key frame that is shown no later than `stamp`; None: the beginning of the file."""
        found = None
        for key in self.keys:
            if key.pts is not None and key.pts <= stamp:
                found = key
        return found


def read_packet(packet: Any, codec: str, prefix: int) -> Packet:
    """What a packet of PyAV is, for this codec; `prefix` as `has_idr` takes it."""
    marked = bool(packet.is_keyframe)
    key = marked and (codec in CLEAN or (codec == "h264" and has_idr(bytes(packet), prefix)))
    hidden = codec == "vp8" and not bytes(packet)[0] & 16  # RFC 6386, 9.1: show_frame
    return Packet(packet.pts, packet.dts, key, marked, not packet.is_discard and not hidden)


def packet_table(packets: Sequence[Packet], container: str) -> PacketTable | None:
    """The table, or None where packets do not determine what will be shown."""
    if not any(name in container for name in INDEXED) or not packets:
        return None
    if any(packet.pts is None for packet in packets):
        return None
    stamps = np.sort(np.asarray([packet.pts for packet in packets if packet.shown], np.int64))
    if not len(stamps) or (np.diff(stamps) <= 0).any():
        return None
    pts = np.asarray([packet.pts for packet in packets], np.int64)
    starts = [i for i, packet in enumerate(packets) if packet.key]
    if not starts or starts[0] != 0 or pts.min() < pts[0]:
        return None  # the first frames lack what they refer to: who knows which of them will be shown
    lowest = np.minimum.accumulate(pts[::-1])[::-1]
    closed = all(lowest[i] == pts[i] for i in starts)
    closed = closed and all(packet.shown and packet.key == packet.marked for packet in packets)
    keys = sorted((packets[i] for i in starts), key=lambda packet: packet.pts or 0)
    return PacketTable(stamps, keys, closed)


def has_idr(data: bytes, prefix: int) -> bool:
    """Whether a packet of H.264 holds a slice of an IDR image (ITU-T H.264, 7.4.1: NAL unit type 5).

    Args:
        prefix: bytes before each unit with its length; 0: units begin with a start code.
    """
    if not prefix:
        return any(unit and unit[0] & 31 == 5 for unit in data.split(b"\0\0\1")[1:])
    at = 0
    while at + prefix < len(data):
        if data[at + prefix] & 31 == 5:
            return True
        at += prefix + int.from_bytes(data[at : at + prefix], "big")
    return False


def length_prefix(extradata: bytes | None) -> int:
    """Bytes before each unit of H.264 with its length, from an AVCDecoderConfigurationRecord (ISO/IEC 14496-15,
    5.3.3.1); 0 without one."""
    return (extradata[4] & 3) + 1 if extradata and len(extradata) > 4 and extradata[0] == 1 else 0
