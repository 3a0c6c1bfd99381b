"""The solvers of second order against diffusers' schedulers, and what both are: of second order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from t2x_core.diffusion import SAMPLERS, dpmpp_2m, euler, grid, guided, heun, unipc
from t2x_core.types import Conditioning

diffusers = pytest.importorskip("diffusers")


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """Curved, and another one for each channel: no solver is exact on it."""
    phase = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[None, :, None, None, None]
    time = t.to(x.dtype)[:, None, None, None, None]
    return torch.sin(3 * time * phase + x) + 0.5 * x


def by_diffusers(scheduler: Any, x: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """What the scheduler makes of x, and the times (steps + 1,) at which it does."""
    scheduler.set_timesteps(steps)
    times = scheduler.sigmas.double()
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(velocity(x, times[i].expand(len(x))), t, x).prev_sample
    return x, times


def flow_match(shift: float) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)


def multistep(kind: str) -> Callable[[float], Any]:
    def make(shift: float) -> Any:
        flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
        return getattr(diffusers, kind)(solver_order=2, lower_order_final=True, final_sigmas_type="zero", **flow)

    return make


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 12, 25])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("euler", flow_match),
        ("heun", lambda shift: diffusers.FlowMatchHeunDiscreteScheduler(shift=shift)),
        ("dpmpp-2m", multistep("DPMSolverMultistepScheduler")),
        ("unipc", multistep("UniPCMultistepScheduler")),
    ],
)
def test_a_sampler_is_that_of_diffusers(name: str, make: Callable[[float], Any], steps: int, shift: float) -> None:
    noise = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scheduler = make(shift)
    if name == "heun" and steps > 1:  # (with one step it is Euler's)
        # its scheduler has each time twice, and is asked twice a step
        scheduler.set_timesteps(steps)
        wanted = noise
        for i, t in enumerate(scheduler.timesteps):
            wanted = scheduler.step(velocity(wanted, scheduler.sigmas[i].double().expand(2)), t, wanted).prev_sample
        times = torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1::2]]).double()
    else:
        wanted, times = by_diffusers(flow_match(shift) if name == "heun" else scheduler, noise, steps)
    assert len(times) == steps + 1
    found = SAMPLERS[name](velocity, noise, times)
    torch.testing.assert_close(found, wanted.double(), atol=1e-4, rtol=1e-4)


def error(sampler: Callable[..., Tensor], steps: int) -> float:
    """Of x(0) for dx/dt = x + cos 5t from x(1) = 1, whose solution is known."""

    def slope(x: Tensor, t: Tensor) -> Tensor:
        return x + torch.cos(5 * t.double())[:, None, None, None, None]

    def particular(t: float) -> float:
        return (5 * math.sin(5 * t) - math.cos(5 * t)) / 26

    exact = (1 - particular(1)) * math.exp(-1) + particular(0)
    times = grid(steps, 1.0).double()
    return abs(float(sampler(slope, torch.ones(1, 1, 1, 1, 1, dtype=torch.float64), times)) - exact)


@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (heun, 2), (dpmpp_2m, 2), (unipc, 2)])
def test_the_error_falls_with_the_order(sampler: Callable[..., Tensor], order: int) -> None:
    falls = error(sampler, 100) / error(sampler, 400)
    assert falls > 0.8 * 4**order if order == 1 else falls > 9


@pytest.mark.parametrize(("name", "evaluations"), [("euler", 6), ("heun", 11), ("dpmpp-2m", 6), ("unipc", 6)])
def test_evaluations(name: str, evaluations: int) -> None:
    """Never at time 0, where the velocity of a clean prediction is 0/0; the first at pure noise."""
    asked: list[float] = []

    def count(x: Tensor, t: Tensor) -> Tensor:
        asked.extend(t.tolist())
        return x

    SAMPLERS[name](count, torch.ones(1, 1, 1, 1, 1), grid(6, 2.0))
    assert len(asked) == evaluations
    assert (asked[0], min(asked) > 0) == (1.0, True)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_straight_path_is_followed_exactly(name: str, steps: int) -> None:
    clean, noise = torch.randn(2, 2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(SAMPLERS[name](lambda x, t: noise - clean, noise, grid(steps, 2.0)), clean)


class Constant:
    """A network that says what its conditioning does, and which conditionings it was given."""

    def __init__(self, made: list[Constant] | None = None) -> None:
        self.batches: list[int] = []
        if made is not None:
            made.append(self)

    def __call__(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.vector is not None
        self.batches.append(len(x))
        return conditioning.vector[:, :, None, None, None] * (1 + x)


YES, NO = Conditioning(vector=torch.tensor([[3.0], [5.0]])), Conditioning(vector=torch.tensor([[1.0], [1.0]]))


def test_outside_of_its_interval_there_is_no_guidance_and_half_of_the_work() -> None:
    made: list[Constant] = []
    follow = guided(lambda: Constant(made), YES, NO, 4.0, (0.2, 0.8))
    x = torch.zeros(2, 1, 1, 1, 1)
    results = {t: follow(x, torch.full((2,), t)).flatten().tolist() for t in (0.9, 0.79, 0.5, 0.21, 0.1)}
    assert results == {0.9: [3, 5], 0.79: [9, 17], 0.5: [9, 17], 0.21: [9, 17], 0.1: [3, 5]}
    assert sorted(network.batches for network in made) == [[2, 2], [4, 4, 4]]  # each its own conditioning


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_guidance_is_scaled_back_to_the_deviation_of_the_conditional_velocity(share: float) -> None:
    """Lin et al., section 3.4, equations 14 to 16, as diffusers has them."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    x, t = torch.randn(2, 1, 2, 4, 4, generator=torch.Generator().manual_seed(2)), torch.ones(2)
    yes, no = (c.vector[:, :, None, None, None] * (1 + x) for c in (YES, NO) if c.vector is not None)
    wanted = rescale_noise_cfg(no + 4.0 * (yes - no), yes, share)
    torch.testing.assert_close(guided(Constant, YES, NO, 4.0, rescale=share)(x, t), wanted)
