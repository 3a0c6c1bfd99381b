"""Named sizes. S to XL are DiT's (Peebles & Xie, arXiv 2212.09748, table 1)."""

from __future__ import annotations

from typing import Any

from t2x_core.types import ConditioningDims

PRESETS: dict[str, dict[str, Any]] = {
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
    "XL": {"width": 1152, "depth": 28, "heads": 16},
    "H": {"width": 1280, "depth": 32, "heads": 20},
    "qihoo-t2i-1b": {
        "width": 1152,
        "depth": 28,
        "heads": 16,
        "in_channels": 4,
        "out_channels": 8,
        "patch_size": 2,
        "attention": "proxy",
        "window": (1, 8, 8),
        "dims": ConditioningDims(text=4096),
        "released": True,
    },
}
"""Fields of `PTDiTConfig`. "qihoo-t2i-1b" is the released network in full; the others are sizes for any task."""
