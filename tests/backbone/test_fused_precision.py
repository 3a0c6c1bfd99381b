"""Fused attention in bfloat16 against float64, at logits of any size, held against what torch's own kernel does."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from t2x_core.backbone import fused
from t2x_core.backbone.embeddings import rotation

G, M, L, D = 4, 6, 16, 24
NAMES = ("output", "q", "k", "v", "k_proxy", "v_proxy")


def ours(q: Tensor, k: Tensor, v: Tensor, k_proxy: Tensor, v_proxy: Tensor, bias: Tensor) -> Tensor:
    return fused.window_proxy_attention(q, k, v, k_proxy, v_proxy, bias, None)


def joined(q: Tensor, k: Tensor, v: Tensor, k_proxy: Tensor, v_proxy: Tensor, bias: Tensor) -> Tensor:
    """The same by scaled_dot_product_attention, each window's keys joined to all proxies."""
    keys, values = (
        torch.cat((x, p[:, None].expand(-1, M, -1, -1)), 2).flatten(0, 1) for x, p in ((k, k_proxy), (v, v_proxy))
    )
    mask = torch.cat((torch.zeros(M, 1, L), bias), -1).expand(M, L, L + M).repeat(G, 1, 1).to(q.dtype)
    out = F.scaled_dot_product_attention(q.flatten(0, 1)[:, None], keys[:, None], values[:, None], mask[:, None])
    return out[:, 0].unflatten(0, (G, M))


def errors(attend, dtype: torch.dtype, logits: float, autocast: bool = False) -> dict[str, float]:
    """Relative errors of the output and of each gradient, from the same inputs in float64."""

    def run(attend, dtype: torch.dtype, autocast: bool) -> list[Tensor]:
        torch.manual_seed(0)
        parts = [torch.randn(G, M, L, D) for _ in range(3)] + [torch.randn(G, M, D) for _ in range(2)]
        parts[0] *= logits
        bias = torch.full((M, 1, M), 0.7)
        bias[range(M), 0, range(M)] = -torch.inf
        weights = torch.randn(G, M, L, D).bfloat16()
        inputs = [part.bfloat16().to(dtype).requires_grad_() for part in parts]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = attend(*inputs, bias)
            assert out.dtype == dtype
            gradients = torch.autograd.grad(out, inputs, weights.to(dtype))  # under autocast, too
        return [x.double() for x in (out.detach(), *gradients)]

    exact = run(joined, torch.float64, False)
    found = run(attend, dtype, autocast)
    return {name: ((a - b).norm() / b.norm()).item() for name, a, b in zip(NAMES, found, exact, strict=True)}


@pytest.mark.parametrize("logits", [1.0, 10.0, 33.0, 100.0])
@pytest.mark.parametrize("autocast", [False, True])
def test_its_error_in_bfloat16_is_a_rounding_whatever_the_size_of_the_logits(logits: float, autocast: bool) -> None:
    """2⁻⁸ is one rounding of a result; with logits rounded before their softmax it was 0.2 at logits of 100."""
    torch_kernel = errors(joined, torch.bfloat16, logits)
    for name, error in errors(ours, torch.bfloat16, logits, autocast).items():
        assert error < 2**-8, name
        assert error < 1.2 * torch_kernel[name], name


@pytest.mark.parametrize("logits", [1.0, 100.0])
@pytest.mark.parametrize("autocast", [False, True])
def test_wide_inputs_stay_wide_under_autocast(logits: float, autocast: bool) -> None:
    assert max(errors(ours, torch.float32, logits, autocast).values()) < 1e-4
    assert max(errors(ours, torch.float64, logits, autocast).values()) < 1e-12


def test_a_rotation_in_bfloat16_is_one_rounding_from_the_exact_one() -> None:
    """Cosines in bfloat16 would make the angle wrong as well."""
    turn = rotation(torch.randint(0, 64, (500, 3)), 24)
    x = torch.randn(500, 24).bfloat16()
    exact = turn(x.double())
    found = turn(x)
    assert found.dtype == torch.bfloat16
    assert (found.double() - exact).norm() / exact.norm() < 0.002
