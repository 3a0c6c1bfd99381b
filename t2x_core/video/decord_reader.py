"""decord: asked only for files of which PyAV has proved that it is right about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from t2x_core.media import Place
from t2x_core.video.reader import WHITE, Colour, DamagedClipError, Frames, VideoReader, reason


class DecordReader(VideoReader):
    """Opened for one clip and dropped, since an idle reader fills memory.

    decord counts packets and believes key frames, so it gives frames of other times where either is not what it seems
    (open GOPs, intra refresh, edit lists, AVI); it knows neither the aspect of pixels, nor mirroring, nor transparency.
    """

    def __init__(self, place: Place, size: tuple[int, int] | None, background: Colour = WHITE) -> None:
        import decord

        height, width = size or (-1, -1)
        try:
            self.video = decord.VideoReader(place, ctx=decord.cpu(0), width=width, height=height, num_threads=1)
            count = len(self.video)
            if not count:
                raise DamagedClipError("has no frames")
            self.times = np.asarray(self.video.get_frame_timestamp(range(count)), dtype=np.float64)[:, 0]
            if size is None:
                height, width = self.video[0].shape[:2]
        except (RuntimeError, decord.DECORDError, IndexError) as error:
            raise DamagedClipError(reason(place, error)) from error
        self.height, self.width, self.place = height, width, place

    def read(self, numbers: Sequence[int]) -> Frames:
        import decord

        try:
            return self.video.get_batch(list(numbers)).asnumpy()
        except (RuntimeError, decord.DECORDError) as error:
            raise DamagedClipError(reason(self.place, error)) from error
