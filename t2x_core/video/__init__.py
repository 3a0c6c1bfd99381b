"""Reading films. Nothing here imports torch: the process that decodes starts in a moment."""

from t2x_core.video.animation import SUFFIXES as ANIMATION_SUFFIXES
from t2x_core.video.animation import is_animation
from t2x_core.video.choice import Choice, ShortClipError
from t2x_core.video.films import Film, Films
from t2x_core.video.reader import DamagedClipError, VideoReader, special_file

__all__ = [
    "ANIMATION_SUFFIXES",
    "Choice",
    "DamagedClipError",
    "Film",
    "Films",
    "ShortClipError",
    "VideoReader",
    "is_animation",
    "special_file",
]
