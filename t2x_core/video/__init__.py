"""Reading videos. Nothing here imports torch: the process that decodes starts in a moment."""

from t2x_core.video.animation import SUFFIXES as ANIMATION_SUFFIXES
from t2x_core.video.animation import is_animation
from t2x_core.video.choice import Choice, ShortClipError
from t2x_core.video.reader import DamagedClipError, VideoReader
from t2x_core.video.videos import Video, Videos

__all__ = [
    "ANIMATION_SUFFIXES",
    "Choice",
    "DamagedClipError",
    "ShortClipError",
    "Video",
    "VideoReader",
    "Videos",
    "is_animation",
]
