"""PT-DiT, the backbone of all tasks."""

from t2x_core.backbone.presets import PRESETS
from t2x_core.backbone.pt_dit import PTDiT, PTDiTConfig
from t2x_core.backbone.released import load_released

__all__ = ["PRESETS", "PTDiT", "PTDiTConfig", "load_released"]
