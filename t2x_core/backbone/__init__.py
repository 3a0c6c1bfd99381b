"""PT-DiT, the backbone of all tasks."""

from t2x_core.backbone.once import Once
from t2x_core.backbone.presets import PRESETS
from t2x_core.backbone.pt_dit import PTDiT, PTDiTConfig
from t2x_core.backbone.released import fold_released, load_released

__all__ = ["PRESETS", "Once", "PTDiT", "PTDiTConfig", "fold_released", "load_released"]
