"""Paths, times, guidance and samplers."""

from t2x_core.diffusion.draws import Draws, draw
from t2x_core.diffusion.guidance import guided
from t2x_core.diffusion.paths import Path, RectifiedFlow, VariancePreserving, make_path
from t2x_core.diffusion.samplers import SAMPLERS, Callback, dpmpp_2m, euler, heun, ignore, unipc
from t2x_core.diffusion.timesteps import automatic_shift, grid, logit_normal, shift

__all__ = [
    "SAMPLERS",
    "Callback",
    "Draws",
    "Path",
    "RectifiedFlow",
    "VariancePreserving",
    "automatic_shift",
    "dpmpp_2m",
    "draw",
    "euler",
    "grid",
    "guided",
    "heun",
    "ignore",
    "logit_normal",
    "make_path",
    "shift",
    "unipc",
]
