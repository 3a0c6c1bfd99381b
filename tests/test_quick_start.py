"""What `t2x sample` leaves out of its start is there for who asks for it."""

from __future__ import annotations

import subprocess
import sys


def test_torchmetrics_is_imported_when_it_is_needed():
    code = """if True:
        from t2x_core.quick_start import prepare
        prepare()
        import sys
        import t2x_core.generation
        assert "torchmetrics.functional" not in sys.modules
        from torchmetrics import Metric
        import torchmetrics
        assert Metric.__module__ == "torchmetrics.metric"
        mean = torchmetrics.MeanMetric()
        mean.update([1.0, 4.0])
        assert isinstance(mean, Metric) and mean.compute() == 2.5
        import lightning
        assert isinstance(lightning.Trainer, type)
    """
    subprocess.run([sys.executable, "-c", code], check=True)
