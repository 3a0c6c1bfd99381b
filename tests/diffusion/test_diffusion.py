import math
from statistics import NormalDist

import pytest
import torch

from t2x_core.diffusion import RectifiedFlow, automatic_shift, euler, grid, guided, heun, logit_normal, shift
from t2x_core.types import Conditioning


def test_the_path_joins_data_and_noise_and_its_velocity_is_its_derivative():
    clean, noise = torch.randn(2, 3, 1, 4, 4), torch.randn(2, 3, 1, 4, 4)
    path = RectifiedFlow()
    for t, end in ((0.0, clean), (1.0, noise)):
        torch.testing.assert_close(path.corrupt(clean, noise, torch.full((2,), t)).latents, end)
    t, dt = torch.tensor([0.3, 0.6]), 1e-3
    moved = path.corrupt(clean, noise, t + dt).latents - path.corrupt(clean, noise, t).latents
    torch.testing.assert_close(moved / dt, path.corrupt(clean, noise, t).velocity, atol=1e-3, rtol=1e-3)


def test_a_predicted_clean_sample_gives_the_velocity_that_leads_to_it():
    clean, noise, t = torch.randn(2, 3, 1, 4, 4), torch.randn(2, 3, 1, 4, 4), torch.tensor([0.2, 0.9])
    path = RectifiedFlow("clean")
    noised = path.corrupt(clean, noise, t)
    torch.testing.assert_close(path.velocity(clean, noised.latents, t), noised.velocity)


def test_logit_normal_times_have_the_density_of_the_paper():
    u = torch.linspace(0, 1, 100_001, dtype=torch.float64)[1:-1]
    t = logit_normal(u, mean=0.4, std=0.7)
    logits = torch.logit(t)
    assert logits.mean().item() == pytest.approx(0.4, abs=1e-3)
    assert logits.std().item() == pytest.approx(0.7, abs=1e-3)


def test_shift_keeps_the_ends_and_moves_towards_noise():
    t = torch.linspace(0, 1, 11)
    moved = shift(t, 3.0)
    assert moved[0] == 0
    assert moved[-1] == 1
    assert (moved[1:-1] > t[1:-1]).all()
    torch.testing.assert_close(shift(t, 1.0), t)
    assert grid(4, 3.0).tolist() == pytest.approx([1, 0.9, 0.75, 0.5, 0])


@pytest.mark.parametrize("tokens", [16, 256, 1024, 4096])
def test_an_automatic_shift_is_that_of_flux(tokens):
    """FLUX's pipeline in diffusers: a line for mu, and dynamic shifting in its scheduler."""
    diffusers = pytest.importorskip("diffusers")
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, num_train_timesteps=1000)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=calculate_shift(tokens))
    torch.testing.assert_close(grid(4, automatic_shift(tokens)), scheduler.sigmas, atol=1e-6, rtol=1e-5)


def test_past_4096_tokens_an_automatic_shift_grows_with_their_root():
    """Esser et al. 2024, eq. 23: from n to m tokens, the factor of the shift between the two is sqrt(m / n)."""
    t = torch.linspace(0.1, 0.9, 9)
    twice = shift(shift(t, automatic_shift(4096)), math.sqrt(5))
    torch.testing.assert_close(shift(t, automatic_shift(5 * 4096)), twice)
    assert automatic_shift(4096) == pytest.approx(math.exp(1.15))


def test_euler_is_of_first_order_and_heun_of_second():
    """dx/dt = x from t = 1 down to 0: the exact answer is x(1)/e."""

    def error(sampler, steps):
        x = sampler(lambda x, t: x, torch.ones(1, 1, 1, 1, 1, dtype=torch.float64), grid(steps, 1.0).double())
        return abs(x.item() - math.exp(-1))

    assert error(euler, 20) / error(euler, 40) == pytest.approx(2, rel=0.1)

    # Heun's last step is Euler's, so its error is asked for without it.
    def heun_error(steps):
        times = torch.linspace(1, 0.5, steps + 1, dtype=torch.float64)
        x = heun(lambda x, t: x, torch.ones(1, 1, 1, 1, 1, dtype=torch.float64), times)
        return abs(x.item() - math.exp(-0.5))

    assert heun_error(20) / heun_error(40) == pytest.approx(4, rel=0.1)


def test_samplers_undo_a_straight_path_exactly():
    clean, noise = torch.randn(2, 3, 1, 4, 4), torch.randn(2, 3, 1, 4, 4)
    for sampler in (euler, heun):
        torch.testing.assert_close(sampler(lambda x, t: noise - clean, noise, grid(3, 2.0)), clean)


def test_guidance_goes_from_the_null_prediction_through_the_conditional_one():
    x, t = torch.zeros(2, 1, 1, 1, 1), torch.ones(2)

    def velocity(x, t, conditioning):
        return conditioning.vector[:, :, None, None, None] + x

    yes, no = Conditioning(vector=torch.tensor([[3.0], [5.0]])), Conditioning(vector=torch.tensor([[1.0], [1.0]]))
    assert guided(lambda: velocity, yes, no, 1.0)(x, t).flatten().tolist() == [3, 5]
    assert guided(lambda: velocity, yes, no, 0.0)(x, t).flatten().tolist() == [1, 1]
    assert guided(lambda: velocity, yes, no, 4.0)(x, t).flatten().tolist() == [9, 17]


@pytest.mark.parametrize("min_t", [0.05, 0.2])
def test_below_the_smallest_divisor_the_best_clean_prediction_is_the_clean_sample(min_t):
    """The error of the velocity is that of x₀ over max(t, min_t), so it is least, zero, at x₀, at any time."""
    clean, noise = torch.randn(2, 7, 3, 1, 4, 4)
    t = torch.tensor([0.0, 1e-6, 0.01, 0.049, 0.05, 0.3, 1.0])
    path = RectifiedFlow("clean", min_t)
    noised = path.corrupt(clean, noise, t)
    target = path.velocity(clean, noised.latents, t)
    torch.testing.assert_close(target, noised.velocity, atol=1e-5, rtol=1e-5)
    off = torch.randn_like(clean)
    error = (path.velocity(clean + off, noised.latents, t) - noised.velocity).square().mean((1, 2, 3, 4))
    torch.testing.assert_close(error, off.square().mean((1, 2, 3, 4)) / t.clamp(min=min_t) ** 2)


def test_a_velocity_prediction_knows_no_smallest_divisor():
    clean, noise, t = torch.randn(2, 3, 1, 4, 4), torch.randn(2, 3, 1, 4, 4), torch.tensor([0.0, 0.01])
    path = RectifiedFlow("velocity")
    noised = path.corrupt(clean, noise, t)
    assert torch.equal(noised.velocity, noise - clean)
    assert torch.equal(noised.divisor, t)
    assert torch.equal(path.velocity(clean, noised.latents, t), clean)


@pytest.mark.parametrize("sampler", [euler, heun])
@pytest.mark.parametrize("times", [grid(100, 1.0), grid(30, 0.2), torch.tensor([1.0, 0.3, 0.04, 1e-3, 1e-6, 0.0])])
def test_a_sampler_ends_at_a_perfect_clean_prediction(sampler, times):
    """However small its last steps: nothing of the noise is left."""
    clean, noise = torch.randn(2, 2, 3, 1, 4, 4)
    path = RectifiedFlow("clean")
    assert path.exact.prediction == "clean"
    ended = sampler(lambda x, t: path.exact.velocity(clean, x, t), noise, times)
    torch.testing.assert_close(ended, clean, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize(("sampler", "evaluations"), [(euler, 5), (heun, 9)])
def test_no_sampler_asks_at_time_zero(sampler, evaluations):
    """There the velocity of a clean prediction is 0/0, and no network was trained."""
    asked = []

    def velocity(x, t):
        asked.extend(t.tolist())
        return x

    sampler(velocity, torch.ones(1, 1, 1, 1, 1), grid(5, 2.0))
    assert len(asked) == evaluations
    assert min(asked) > 0
    assert asked[0] == 1


def test_the_path_is_not_rounded_to_the_latents_precision():
    """Times in bfloat16 would be 256 values."""
    clean, noise = torch.randn(2, 4, 3, 1, 8, 8)
    t = torch.tensor([0.1234567, 0.5004, 0.9991, 0.3333])
    fine = RectifiedFlow().corrupt(clean.bfloat16(), noise.bfloat16(), t).latents
    assert fine.dtype == torch.float32
    weight = t.view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(fine, (1 - weight) * clean.bfloat16().float() + weight * noise.bfloat16().float())


def test_times_are_the_inverse_distribution_function_of_their_uniform_numbers():
    """Against Python's own normal distribution: more uniform is more noise."""
    u = torch.linspace(0.01, 0.99, 23, dtype=torch.float64)
    expected = [1 / (1 + math.exp(-(0.7 + 1.3 * NormalDist().inv_cdf(x)))) for x in u.tolist()]
    torch.testing.assert_close(logit_normal(u, 0.7, 1.3), torch.tensor(expected, dtype=torch.float64))


def test_a_clean_prediction_is_divided_by_t_down_to_a_twentieth():
    latents, output = torch.full((4, 1), 3.0), torch.full((4, 1), 1.0)
    found = RectifiedFlow("clean").velocity(output, latents, torch.tensor([1.0, 0.2, 0.05, 0.01]))
    torch.testing.assert_close(found.squeeze(1), torch.tensor([2.0, 10.0, 40.0, 40.0]))
