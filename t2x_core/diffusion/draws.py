"""What is random about training samples: drawn from their keys, so that nothing has to be saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2x_core import keyed
from t2x_core.diffusion.paths import Path
from t2x_core.diffusion.timesteps import logit_normal
from t2x_core.recipe import DiffusionConfig, TimestepConfig
from t2x_core.types import VAL_STEP, SampleKey


@dataclass(frozen=True)
class Draws:
    """What is random about the samples of a batch."""

    t: Tensor
    """(B,) times in [0, 1]."""
    noise: Tensor
    """(B, C, F, H, W)."""
    dropped: Tensor
    """(B,) bool: this sample is trained without its condition."""


def draw(
    keys: Sequence[SampleKey], latents: Tensor, seed: int, config: DiffusionConfig, path: Path, shift: float
) -> Draws:
    """Time, noise and condition dropout of each sample, from its key alone, whatever the device.

    The times of validation samples are spread evenly over the set, so that few samples measure the loss well.

    Args:
        keys: one for each of `latents`, (B, C, F, H, W), whose values do not matter.
        shift: timestep shift.
    """
    own = [keyed.key(seed, "diffusion", key.attempt, key.step, key.slot) for key in keys]
    time, drop = keyed.uniform(own, 2).unbind(1)
    for i, key in enumerate(keys):
        if key.step == VAL_STEP:
            time[i] = keyed.evenly(key.slot, seed, "validation")
    return Draws(
        t=_times(time, shift, config.timesteps, path).to(latents.device, torch.float32),
        noise=keyed.normal(own, latents.shape[1:], latents.device),
        dropped=(drop < config.condition_dropout).to(latents.device),
    )


def _times(u: Tensor, shift: float, config: TimestepConfig, path: Path) -> Tensor:
    """Uniform numbers (B,) in [0, 1) → the times that are trained on, (B,)."""
    pure = u >= 1 - config.pure_noise
    u = (u / max(1 - config.pure_noise, 1e-9)).clamp(1e-9, 1 - 1e-9)
    t = logit_normal(u, config.mean, config.std) if config.distribution == "logit-normal" else u
    return torch.where(pure, 1.0, path.time(t, shift))
