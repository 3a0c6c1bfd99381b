"""PT-DiT, the backbone of all tasks."""

from t2x_core.backbone.conditioning_cache import ConditioningCache
from t2x_core.backbone.config import PTDiTConfig
from t2x_core.backbone.presets import PRESETS
from t2x_core.backbone.pt_dit import PTDiT
from t2x_core.backbone.released import fold_released, load_released

__all__ = ["PRESETS", "ConditioningCache", "PTDiT", "PTDiTConfig", "fold_released", "load_released"]
