"""PyAV: the reader to trust. Frames are known by the times that the decoder gives them, never by counting packets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from t2x_core.media import Place, on_disk, open_place
from t2x_core.video.choice import Times
from t2x_core.video.display import Display, orientation
from t2x_core.video.packets import Packet, PacketTable, length_prefix, packet_table, read_packet
from t2x_core.video.reader import (
    WHITE,
    Colour,
    DamagedClipError,
    Decoded,
    Frames,
    VideoReader,
    WrongTimesError,
    reason,
)

WORTH_A_SEEK = 8
"""Frames that must be saved before a key frame is sought instead of decoding on."""
JUMP = 10.0
"""Seconds: a larger step between the times of two frames is a cut in a transport stream."""


class PyavReader(VideoReader):
    """Reads in one of two ways.

    By packets: where the container gives every packet its time, times come from them, and decoding begins at a key
    frame that is known to be clean. Every run of decoded frames is then compared with the times that packets promised.
    By decoding: anywhere else, and where that comparison fails, the whole file is decoded for its times, and decoded
    again from its beginning for the frames.
    """

    def __init__(self, place: Place, size: tuple[int, int] | None, background: Colour = WHITE) -> None:
        self.place, self.size, self.background = place, size, background
        self._times_by_decoding: Times | None = None
        with self._opened() as (container, stream):
            packets, first = self._scan(container, stream)
            self._table = packet_table(packets, container.format.name)
            self._base = float(stream.time_base)
            self.announced = max(0, stream.frames - sum(not packet.shown for packet in packets))
            alone = len(container.streams) == 1 and container.duration is not None  # else it may be that of the sound
            self.announced_seconds = container.duration / 1e6 if alone else float((stream.duration or 0) * self._base)
            if size is None:
                if first is None:
                    raise DamagedClipError("has no frames")
                size = self._display(stream).shown_size(first)
                self.exact = self._table is not None and self._table.closed and _plain(first, stream, size)
            self.height, self.width = size
        if self._table is not None:
            self.times = np.asarray(self._table.stamps * self._base, np.float64)
        else:
            self._decode_times()

    def read(self, numbers: Sequence[int]) -> Frames:
        with self._opened() as (container, stream):
            show = self._display(stream)
            if self._table is None:
                return np.stack(self._counted(container, stream, numbers, show))
            frames = self._by_packets(container, stream, numbers, show, self._table)
        if frames is None:
            self._table = None
            self._decode_times()
            raise WrongTimesError
        return np.stack([frames[number] for number in numbers])

    def every(self) -> Iterator[Decoded]:
        with self._opened() as (container, stream):
            show = self._display(stream)
            for frame in self._frames(container, stream, None):
                guessed = frame.pts is None or container.format.name == "avi"  # which keeps no times
                time = None if guessed else frame.pts * self._base
                yield Decoded(time, show(frame), bool(frame.is_corrupt))

    def _by_packets(
        self, container: Any, stream: Any, numbers: Sequence[int], show: Display, table: PacketTable
    ) -> dict[int, NDArray[np.uint8]] | None:
        """Number → frame; None if what is decoded is not what the packets promised."""
        frames: dict[int, NDArray[np.uint8]] = {}
        for run, key in _runs(sorted(set(numbers)), table):
            first, last = int(table.stamps[run[0]]), int(table.stamps[run[-1]])
            wanted = {int(table.stamps[number]): number for number in run}
            seen = []
            for frame in self._frames(container, stream, key):
                if frame.pts is None or frame.pts > last:
                    break
                if frame.pts < first:
                    continue
                seen.append(frame.pts)
                if frame.pts in wanted:
                    frames[wanted[frame.pts]] = show(frame)
                if frame.pts == last:
                    break
            if seen != table.stamps[run[0] : run[-1] + 1].tolist():
                return None
        return frames

    def _counted(self, container: Any, stream: Any, numbers: Sequence[int], show: Display) -> list[NDArray[np.uint8]]:
        frames: dict[int, NDArray[np.uint8]] = {}
        for number, frame in enumerate(self._frames(container, stream, None)):
            if number in numbers:
                frames[number] = show(frame)
            if number >= max(numbers):
                break
        missing = set(numbers) - frames.keys()
        if missing:
            raise DamagedClipError(f"is cut short: it ends before frame {min(missing)}")
        return [frames[number] for number in numbers]

    def _frames(self, container: Any, stream: Any, key: Packet | None) -> Iterator[Any]:
        """Frames as they are shown, from a key frame on, or from the beginning of a container just opened."""
        decoder = _decoder(stream)
        if key is not None:
            container.seek(key.seek, stream=stream, backward=True)
            decoder.flush_buffers()
        waiting = key is not None
        for packet in container.demux(stream):
            if waiting and not (packet.is_keyframe and packet.pts == key.pts):  # type: ignore[union-attr]
                continue
            waiting = False
            if packet.size:  # an empty one stands for a repeated frame in AVI, and would end the decoder
                yield from decoder.decode(packet)
        if not waiting:
            yield from decoder.decode(None)

    def _scan(self, container: Any, stream: Any) -> tuple[list[Packet], Any]:
        """What all packets are, and the first frame if its size is asked for."""
        codec, decoder = stream.codec_context.codec.canonical_name, _decoder(stream)
        prefix = length_prefix(stream.codec_context.extradata)
        packets: list[Packet] = []
        first = None
        for packet in container.demux(stream):
            if not packet.size:
                continue
            packets.append(read_packet(packet, codec, prefix))
            if first is None and self.size is None:
                first = next(iter(decoder.decode(packet)), None)
        if first is None and self.size is None:
            first = next(iter(decoder.decode(None)), None)
        return packets, first

    def _decode_times(self) -> None:
        with self._opened() as (container, stream):
            rate = stream.average_rate or stream.guessed_rate
            stamps = [(frame.pts, frame.dts) for frame in self._frames(container, stream, None)]
        if not stamps:
            raise DamagedClipError("has no frames")
        self.times = decoded_times(stamps, self._base, float(rate) if rate else None)

    def _display(self, stream: Any) -> Display:
        return Display(stream.sample_aspect_ratio, self.size, self.background)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        import av

        try:
            with ExitStack() as stack:
                place = self.place if on_disk(self.place) else stack.enter_context(open_place(self.place))
                container = stack.enter_context(av.open(place))
                stream = next((s for s in container.streams.video if not _is_cover(s)), None)
                if stream is None:
                    raise DamagedClipError("has no images: it is sound only")
                yield container, stream
        except (av.FFmpegError, OSError, ValueError) as error:
            raise DamagedClipError(reason(self.place, error)) from error


def decoded_times(stamps: Sequence[tuple[int | None, int | None]], base: float, rate: float | None) -> Times:
    """Seconds at which frames are shown, from the (pts, dts) that the decoder gave them, in the order of showing.

    Where the demuxer had to guess the first they may be in disorder. Then the second count, which are merely shifted;
    then the frame rate. A jump in a transport stream that was cut together is closed.
    """
    step = 1 / rate if rate else None
    for column in zip(*stamps, strict=True):
        known = [stamp for stamp in column if stamp is not None]
        if None in column[: len(known)] or 2 * len(known) < len(column):
            continue
        times = np.asarray(known, np.float64) * base
        steps = np.diff(times)
        usual = step or (float(np.median(steps)) if len(steps) else 0.0)
        steps = np.where((np.abs(steps) > JUMP) | (steps < -1.0), usual, steps)
        rest = np.full(len(column) - len(known), usual)  # of the last frames, which no packet pushes out
        times = times[0] + np.cumsum([0.0, *steps, *rest])
        if (np.diff(times) >= 0).all() and (len(times) == 1 or times[-1] > times[0]):
            return np.asarray(times, np.float64)
    if step is None:
        raise DamagedClipError("is damaged: the times of its frames are in disorder")
    return np.arange(len(stamps), dtype=np.float64) * np.float64(step)


def _runs(numbers: Sequence[int], table: PacketTable) -> Iterator[tuple[list[int], Packet | None]]:
    """Runs of frames to be decoded in one go, each with the key frame that it begins at."""
    run: list[int] = []
    start = None
    for number in numbers:
        key = table.key_before(int(table.stamps[number]))
        before = int(np.searchsorted(table.stamps, key.pts)) if key is not None else 0  # type: ignore[arg-type]
        if run and before - run[-1] > WORTH_A_SEEK:
            yield run, start
            run = []
        if not run:
            start = key
        run.append(number)
    yield run, start


def _decoder(stream: Any) -> Any:
    """The stream's own decoder, or for VP8 and VP9 with transparency that of libvpx: FFmpeg's own drops it."""
    from av import CodecContext

    decoder = stream.codec_context
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(decoder.codec.canonical_name)
    if name is not None and _has_alpha(stream):
        decoder = CodecContext.create(name, "r")
    if not decoder.is_open:
        decoder.thread_type, decoder.thread_count = "NONE", 1
    return decoder


def _is_cover(stream: Any) -> bool:
    """An image beside the sound or the video (cover art), which containers keep as a stream of video."""
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def _plain(frame: Any, stream: Any, shown: tuple[int, int]) -> bool:
    """Whether decord shows a frame as PyAV does: in the usual 8 bit, as it is stored, by the usual colour matrix."""
    return (
        stream.codec_context.codec.canonical_name in ("h264", "hevc", "vp9")
        and frame.format.name == "yuv420p"
        and int(frame.colorspace) in (2, 5, 6)  # unspecified, BT.470 BG, SMPTE 170M: BT.601
        and int(frame.color_range) in (0, 1)  # unspecified, limited
        and shown == (frame.height, frame.width)
        and not any(orientation(frame))
        and not _has_alpha(stream)
    )


def _has_alpha(stream: Any) -> bool:
    """Whether VP8 or VP9 come with transparency, which Matroska keeps beside the frames."""
    return any(key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items())
