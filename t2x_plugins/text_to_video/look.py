"""A first look at somebody's videos: `t2x new videos`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from t2x_core.data.index import Finding
from t2x_core.errors import UserError
from t2x_core.starting.machine import Machine
from t2x_core.starting.summary import DataSummary, Setting, median_side, words_in
from t2x_core.video import ANIMATION_SUFFIXES, Choice, ShortClipError
from t2x_plugins.captioned.look import bad_fraction, look_at_files
from t2x_plugins.text_to_video.clip_source import VIDEO_SUFFIXES, VideoMeasure
from t2x_plugins.text_to_video.clips import only_videos
from t2x_plugins.text_to_video.clips_config import ClipsConfig

MOST = 48
"""Videos of which some frames are decoded."""
RATE = 8
"""Frames a second, where the videos have as many."""
FRAMES, SMALL_FRAMES = (16, 8, 4, 2), (8, 4, 2)
"""Lengths of clips, on a GPU and on a CPU."""
ENOUGH, MANY = 0.95, 0.5
"""Shares of the videos that are long enough for the shortest clips, and for the longest."""


def look_at_videos(folder: Path, machine: Machine) -> DataSummary:
    """Videos of a folder, with captions beside them."""
    measure = VideoMeasure(ClipsConfig(folder=folder, fps=RATE))
    found = look_at_files(folder, "videos", VIDEO_SUFFIXES | ANIMATION_SUFFIXES, measure, MOST, "cat.mp4", only_videos)
    rates = [(one.frames - 1) / one.seconds for one in found.findings if one.seconds]
    slow = float(np.quantile(rates, 0.05)) if rates else 1.0
    fps = RATE if slow >= RATE else max(1.0, float(int(slow)))
    numbers, short = _lengths(found.findings, fps, FRAMES if machine.gpu else SMALL_FRAMES)
    seconds = np.median([one.seconds for one in found.findings])
    settings = [one for one in found.settings if one.key != "max_bad_fraction" or not short]
    lasting = f"{len(numbers)} lengths: each video gives the longest that it is long enough for"
    return DataSummary(
        task="text-to-video",
        block="clips",
        noun="video",
        count=max(1, round(found.count * (1 - short))),
        sizes=found.sizes,
        words=words_in(found.captions),
        example=found.captions[0],
        recipes={"pixels": "text_to_video/clips"},
        frames=numbers[-1],
        settings=[
            Setting(
                "frames", numbers if len(numbers) > 1 else numbers[0], lasting if len(numbers) > 1 else "of a clip"
            ),
            Setting("fps", fps, f"frames a second of a clip; the videos have {np.median(rates):.3g}" if rates else ""),
            *settings,
            *bad_fraction(round(short * len(found.findings)), len(found.findings), "are too short"),
        ],
        variants=True,
        lines=[
            *found.lines,
            f"the median video is as large as {median_side(found.sizes)} square, {seconds:.3g} s, "
            f"{np.median(rates) if rates else 0:.3g} frames a second",
        ],
    )


def _lengths(findings: Sequence[Finding], fps: float, numbers: Sequence[int]) -> tuple[list[int], float]:
    """Lengths of clips, rising: one that nearly all videos have, and a longer one if many have it; and the share of
    videos that are too short. UserError if most are."""

    def share(frames: int) -> float:
        return sum(_long_enough(one, Choice(frames, fps=fps)) for one in findings) / len(findings)

    longest = next((frames for frames in numbers if share(frames) >= MANY), None)
    if longest is None:
        raise UserError(f"most of the videos are too short for {numbers[-1]} frames at {fps:g} frames a second")
    every = next((frames for frames in numbers if frames <= longest and share(frames) >= ENOUGH), numbers[-1])
    return sorted({every, longest}), 1 - share(every)


def _long_enough(video: Finding, choice: Choice) -> bool:
    try:
        choice.check(video.frames, video.seconds)
    except ShortClipError:
        return False
    return True
