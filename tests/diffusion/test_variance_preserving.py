"""The variance-preserving path, its predictions, weights and samplers, against formulas and diffusers' schedulers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.diffusion import SAMPLERS, VariancePreserving, grid
from t2x_core.diffusion.paths import Prediction
from t2x_core.diffusion.schedules import STEPS, Schedule, alphas_cumprod, interpolate, noise_levels
from t2x_core.errors import UserError
from t2x_core.generation import T2XPipeline
from t2x_core.losses import LOSSES, named_loss
from t2x_core.training import fit
from t2x_core.types import Batch

diffusers = pytest.importorskip("diffusers")

PREDICTIONS: tuple[Prediction, ...] = ("velocity", "clean", "epsilon")
SCHEDULES: tuple[Schedule, ...] = ("cosine", "scaled-linear")
THEIRS = {"velocity": "v_prediction", "clean": "sample", "epsilon": "epsilon"}


def settings(schedule: Schedule, prediction: Prediction) -> dict[str, Any]:
    """Of a scheduler of diffusers."""
    name = {"cosine": "squaredcos_cap_v2", "scaled-linear": "scaled_linear"}[schedule]
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": name}
    return {**betas, "prediction_type": THEIRS[prediction], "rescale_betas_zero_snr": prediction != "epsilon"}


def pair() -> tuple[Tensor, Tensor]:
    clean, noise = torch.randn(2, 3, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return clean, noise


def expand(x: Tensor) -> Tensor:
    return x.view(-1, 1, 1, 1, 1)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("rescaled", [False, True])
def test_noise_levels_are_those_of_diffusers(schedule: Schedule, rescaled: bool) -> None:
    theirs = diffusers.DDPMScheduler(**settings(schedule, "velocity" if rescaled else "epsilon"))
    found = torch.from_numpy(alphas_cumprod(schedule, rescaled)).float()
    torch.testing.assert_close(found, theirs.alphas_cumprod, atol=2e-6, rtol=1e-4)


def test_lines_are_those_of_numpy() -> None:
    import numpy as np

    places, values = torch.tensor([0.0, 0.1, 0.4, 1.0]), torch.tensor([0.0, 3.0, 4.0, 9.0])
    x = torch.tensor([-0.1, 0.0, 0.05, 0.1, 0.3, 0.99, 1.0, 1.2])
    torch.testing.assert_close(interpolate(x, places, values), torch.from_numpy(np.interp(x, places, values)).float())


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_network_sees_what_ddpm_shows_it(schedule: Schedule, prediction: Prediction) -> None:
    """Sample and time of `DDPMScheduler.add_noise`, whose step n is (n + 1)/STEPS here."""
    clean, noise = pair()
    scheduler = diffusers.DDPMScheduler(**settings(schedule, prediction))
    n = torch.tensor([3, 500, 998])
    path = VariancePreserving(prediction, schedule=schedule)
    t = path.time((n + 1) / STEPS, 1.0)
    latents, time = path.network_inputs(path.corrupt(clean, noise, t).latents, t)
    torch.testing.assert_close(latents, scheduler.add_noise(clean, noise, n), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(time, (n + 1) / STEPS, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_perfect_prediction_implies_the_velocity_of_the_flow(schedule: Schedule) -> None:
    clean, noise = pair()
    n = torch.tensor([3, 500, 950])
    targets = {
        "velocity": diffusers.DDPMScheduler(**settings(schedule, "velocity")).get_velocity(clean, noise, n),
        "clean": clean,
        "epsilon": noise,
    }
    for prediction in PREDICTIONS:
        path = VariancePreserving(prediction, schedule=schedule).exact
        t = path.time((n + 1) / STEPS, 1.0)
        found = path.velocity(targets[prediction], path.corrupt(clean, noise, t).latents, t)
        torch.testing.assert_close(found, noise - clean, atol=2e-4, rtol=1e-3)


def test_the_schedule_ends_at_pure_noise_unless_noise_is_predicted() -> None:
    last = {p: float(VariancePreserving(p, schedule="scaled-linear").time(torch.ones(1), 1.0)) for p in PREDICTIONS}
    assert last["velocity"] == last["clean"] == 1
    alpha = 0.0047**0.5  # of Stable Diffusion (Lin et al., section 3.1: ᾱ is 0.0047 at its end)
    assert last["epsilon"] == pytest.approx((1 - alpha**2) ** 0.5 / (alpha + (1 - alpha**2) ** 0.5), abs=1e-3)
    shifted = VariancePreserving("epsilon", schedule="scaled-linear").time(torch.linspace(0, 1, 50), 5.0)
    assert float(shifted.max()) == last["epsilon"]


def test_a_shift_divides_the_root_of_the_signal_to_noise_ratio() -> None:
    """As in simple diffusion (Hoogeboom et al. 2023, arXiv 2301.11093, section 3.1)."""
    path, u = VariancePreserving(schedule="cosine"), torch.linspace(0.05, 0.9, 9, dtype=torch.float64)
    plain, shifted = path.time(u, 1.0), path.time(u, 3.0)
    torch.testing.assert_close((1 - shifted) / shifted, (1 - plain) / plain / 3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_losses_are_those_of_the_papers(prediction: Prediction) -> None:
    """Errors of v, x₀ and ε with the weights of the min-SNR paper for each (as diffusers' training scripts)."""
    clean, noise = pair()
    output = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    path = VariancePreserving(prediction, schedule="scaled-linear")
    t = path.time(torch.tensor([0.2, 0.5, 0.9]), 1.0)
    noised = path.corrupt(clean, noise, t)
    velocity, batch = path.velocity(output, noised.latents, t), Batch("t", ("", "", ""))

    alpha, sigma = ((part / ((1 - t) ** 2 + t**2).sqrt()).double() for part in (1 - t, t))
    snr = alpha**2 / sigma**2
    target = {"clean": clean, "epsilon": noise, "velocity": expand(alpha) * noise - expand(sigma) * clean}[prediction]
    error = (output - target).double().square().mean((1, 2, 3, 4))
    to_clean = {"clean": torch.ones(3), "epsilon": 1 / snr, "velocity": 1 / (snr + 1)}[prediction]
    wanted = {"clean": 1, "epsilon": snr, "velocity": snr + 1, "min-snr": snr.clamp(max=5)}
    for name, factor in wanted.items():
        found = LOSSES[name](velocity, noised, batch)
        torch.testing.assert_close(found.double(), error * to_clean * factor, rtol=2e-4, atol=1e-6)
    capped = named_loss("min-snr", 0.5)(velocity, noised, batch)
    torch.testing.assert_close(capped.double(), error * to_clean * snr.clamp(max=0.5), rtol=2e-4, atol=1e-6)


class Network:
    """Any curved function of what a network is given: the same for both sides."""

    def __call__(self, z: Tensor, time: Tensor) -> Tensor:
        phase = torch.arange(1, z.shape[1] + 1, dtype=z.dtype)[None, :, None, None, None]
        return torch.sin(2 * expand(time.to(z.dtype)) * phase + z) + 0.3 * z


def theirs(name: str) -> type:
    return {
        "euler": diffusers.DDIMScheduler,
        "dpmpp-2m": diffusers.DPMSolverMultistepScheduler,
        "unipc": diffusers.UniPCMultistepScheduler,
    }[name]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [4, 25])
@pytest.mark.parametrize("name", ["euler", "dpmpp-2m", "unipc"])
def test_a_sampler_is_that_of_diffusers(name: str, prediction: Prediction, schedule: Schedule, steps: int) -> None:
    """Euler on the flow is DDIM. From the same noise, at evenly spaced steps to the end ("trailing").

    In place of pure noise, schedulers other than DDIM begin at a ratio of 2⁻²⁴ of signal and noise; so they do here.
    """
    noise = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    own = {"clip_sample": False} if name == "euler" else {"final_sigmas_type": "zero"}
    scheduler = theirs(name)(timestep_spacing="trailing", **settings(schedule, prediction), **own)
    scheduler.set_timesteps(steps)
    path = VariancePreserving(prediction, schedule=schedule).exact
    evenly = path.time(grid(steps, 1.0), 1.0).double()
    bar = scheduler.alphas_cumprod[scheduler.timesteps].double()
    times = torch.cat([(1 - bar).sqrt() / (bar.sqrt() + (1 - bar).sqrt()), torch.zeros(1)])
    torch.testing.assert_close(evenly, times, atol=5e-6 if name == "euler" else 3e-4, rtol=0)
    x = noise
    for n, t in zip(scheduler.timesteps, times[:-1], strict=True):
        x = scheduler.step(Network()(x, path.network_inputs(x, t.expand(2))[1]), n, x).prev_sample

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return path.velocity(Network()(*path.network_inputs(x, t)), x, t)

    found = SAMPLERS[name](velocity, path.start(noise, times[0]), times)
    torch.testing.assert_close(found, x.double(), atol=1e-4, rtol=1e-4)


TINY = ["backbone.width=32", "backbone.depth=1", "backbone.heads=2", "trainer.max_steps=2", "trainer.global_batch=2"]


def test_a_module_trains_and_samples_on_it(tmp_path: Path) -> None:
    """`fit` includes the estimate of a step, in which tensors have no content."""

    overrides = ["diffusion.path=vp", "diffusion.prediction=epsilon", "diffusion.timesteps.pure_noise=0"]
    logging = ["logging.score_samples=0", "logging.final_score_samples=0", "logging.samples=2"]
    assembly = load_assembly("quickstart", [*TINY, *overrides, *logging])
    noise_levels.cache_clear()
    module = build_module(assembly)
    fit(assembly, module, build_data(assembly, module), tmp_path)
    pipeline = T2XPipeline(assembly, module)
    for name in SAMPLERS:
        assert pipeline("a red circle on black", name=name, steps=3).pixels.isfinite().all()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["diffusion.prediction=epsilon", "diffusion.timesteps.pure_noise=0"], "rectified flow begins at pure noise"),
        (["diffusion.path=vp", "diffusion.prediction=epsilon"], "at pure noise, prediction epsilon"),
    ],
)
def test_what_cannot_be_combined_is_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        load_assembly("quickstart", overrides)
    assert "\n" not in str(raised.value)
