"""The checks of t2x, on image-to-video."""

from t2x_core.testing import TaskTests


class TestImageToVideo(TaskTests):
    plugin = "image-to-video"
    settings = {"size": 16, "length": 4}
