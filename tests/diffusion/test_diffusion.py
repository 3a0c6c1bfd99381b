import math

import pytest
import torch

from t2x_core.diffusion import RectifiedFlow, euler, grid, guided, heun, logit_normal, shift
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
    assert guided(velocity, yes, no, 1.0)(x, t).flatten().tolist() == [3, 5]
    assert guided(velocity, yes, no, 0.0)(x, t).flatten().tolist() == [1, 1]
    assert guided(velocity, yes, no, 4.0)(x, t).flatten().tolist() == [9, 17]
