"""Paths, times, guidance and samplers."""

from t2x_core.diffusion.guidance import guided
from t2x_core.diffusion.paths import RectifiedFlow
from t2x_core.diffusion.samplers import SAMPLERS, dpmpp_2m, euler, heun, unipc
from t2x_core.diffusion.timesteps import grid, logit_normal, shift

__all__ = ["SAMPLERS", "RectifiedFlow", "dpmpp_2m", "euler", "grid", "guided", "heun", "logit_normal", "shift", "unipc"]
