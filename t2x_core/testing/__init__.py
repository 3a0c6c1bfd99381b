"""Checks of plugins, as classes to subclass in a test suite of one's own; `t2x check-plugin` runs the same ones.

Example:
    from t2x_core.testing import TaskTests

    class TestStripes(TaskTests):
        plugin = "stripes"
        settings = {"size": 16}
"""

from t2x_core.testing.base import PluginTests
from t2x_core.testing.codecs import CodecTests
from t2x_core.testing.tasks import SourceTests, TaskTests
from t2x_core.testing.text_encoders import TextEncoderTests

__all__ = ["CodecTests", "PluginTests", "SourceTests", "TaskTests", "TextEncoderTests"]
