"""Reading films. Nothing here imports torch: the process that decodes starts in a moment."""

from t2x_core.video.choice import Choice, ShortClipError
from t2x_core.video.films import Film, Films
from t2x_core.video.reader import DamagedClipError, VideoReader

__all__ = ["Choice", "DamagedClipError", "Film", "Films", "ShortClipError", "VideoReader"]
