"""The checks of t2x, on image-to-video."""

from typing import ClassVar

from t2x_core.testing import TaskTests


class TestImageToVideo(TaskTests):
    plugin = "image-to-video"
    settings: ClassVar = {"size": 16, "length": 4}
