"""Keyed randomness against published vectors, NumPy and the distributions themselves."""

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from t2x_core import keyed

CPU = torch.device("cpu")


def keys(count, *words):
    return [keyed.key(0, *words, i) for i in range(count)]


@pytest.mark.parametrize("counter", [0, 1])
@pytest.mark.parametrize("count", [1, 3, 4, 5, 1001])
def test_operations_of_torch_make_the_words_of_numpy(count, counter):
    """NumPy's Philox4x64-10 is checked against the vectors of Random123 by NumPy."""
    some = [*keys(3, "x"), 0, 2**128 - 1, 2**64 - 1]
    expected = [np.random.Philox(key=k, counter=counter << 192).random_raw(count) for k in some]
    for words in (keyed.philox(some, count, counter, CPU), keyed._words(some, count, counter, CPU)):
        assert np.array_equal(words.numpy().view(np.uint64), np.stack(expected))


def test_the_first_words_are_those_that_salmon_et_al_published():
    """Random123's `kat_vectors`, philox4x64 10, key and counter all ones: by NumPy, and by our round."""
    ones = 2**256 - 1
    known = [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0]
    assert np.random.Philox(key=2**128 - 1, counter=ones - 1).random_raw(4).tolist() == known
    c = [torch.tensor([[-1]]) for _ in range(4)]
    k = [torch.tensor([[-1]]) for _ in range(2)]
    for i in range(10):
        (high0, low0), (high1, low1) = (
            keyed._product(c[0], keyed._MULTIPLIERS[0]),
            keyed._product(c[2], keyed._MULTIPLIERS[1]),
        )
        r = [key + keyed._signed(i * weyl) for key, weyl in zip(k, keyed._WEYL, strict=True)]
        c = [high1 ^ c[1] ^ r[0], low1, high0 ^ c[3] ^ r[1], low0]
    assert [int(x) % 2**64 for x in c] == known


def test_the_wide_product_is_that_of_integers():
    xs = [0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1, *(keyed.digest(0, i) for i in range(200))]
    for factor in keyed._MULTIPLIERS:
        high, low = keyed._product(torch.tensor([keyed._signed(x) for x in xs]), factor)
        for x, h, low_word in zip(xs, high.tolist(), low.tolist(), strict=True):
            assert (h % 2**64 << 64) + low_word % 2**64 == x * factor


def test_normal_numbers_are_the_inverse_distribution_function_of_their_bits():
    edges = torch.tensor([-(2**31), -(2**31) + 1, -1, 0, 1, 2**31 - 1])
    bits = torch.cat((edges, torch.arange(5000), torch.randint(-(2**31), 2**31, (200_000,)))).int()
    found = torch.empty(len(bits))
    keyed._gaussian(bits, found)
    size = torch.special.ndtri(((bits.long() & 0x7FFFFFFF).double() + 0.5) * 2.0**-32)
    expected = torch.where(bits < 0, -size, size)
    assert (found - expected).abs().max() < 5e-7
    assert found.abs().max() == pytest.approx(6.338, abs=1e-3)


def test_normal_numbers_have_the_moments_and_tails_of_the_normal_distribution():
    x = keyed.normal(keys(100, "moments"), (20_000,)).double()
    n = x.numel()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((x**power).mean().item() - moment) < 4 * math.sqrt(variance / n)
    for z in (0.5, 1.0, 2.0, 3.0, 4.0):
        share = math.erfc(z / math.sqrt(2))
        assert abs((x.abs() > z).double().mean().item() - share) < 4 * math.sqrt(share / n)
    ends = x.flatten().sort().values
    uniform = torch.special.ndtr(ends)
    worst = (uniform - (torch.arange(n) + 0.5) / n).abs().max().item()
    assert worst < 1.95 / math.sqrt(n)  # Kolmogorov: exceeded with probability 0.001


def test_uniform_numbers_are_uniform():
    u = keyed.uniform(keys(1000, "uniform"), 100)
    assert u.dtype == torch.float64
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean().item() - 0.5) < 4 * math.sqrt(1 / 12 / u.numel())
    counts = torch.histc(u.flatten(), 64, 0, 1)
    assert ((counts - u.numel() / 64) ** 2).sum().item() / (u.numel() / 64) < 103.4  # χ², 63 degrees, p = 0.001
    assert torch.equal((u * 2**53).floor(), u * 2**53)
    assert (u * 2**53 % 2 == 1).double().mean() > 0.4  # all 53 bits


def test_neighbouring_keys_and_neighbouring_numbers_are_unrelated():
    x = keyed.normal([keyed.key(0, "diffusion", 0, step, slot) for step in range(8) for slot in range(8)], (4096,))
    limit = 5 / math.sqrt(4096)
    correlation = torch.corrcoef(x.double())
    assert (correlation - torch.eye(64)).abs().max() < limit
    for lag in (1, 2, 3, 4, 8):
        assert abs((x[:, lag:] * x[:, :-lag]).mean().item()) < 5 / math.sqrt(x.numel())
    raw = keyed.normal([5, 6, 5 + 2**64, 5 ^ 2**127], (4096,)).double()  # keys that differ in a bit
    assert (torch.corrcoef(raw) - torch.eye(4)).abs().max() < limit


def test_uniform_and_normal_numbers_of_one_key_are_unrelated():
    one = keys(16, "both")
    u, x = keyed.uniform(one, 2048), keyed.normal(one, (2048,)).double()
    assert abs(torch.corrcoef(torch.stack((u.flatten(), x.flatten())))[0, 1].item()) < 5 / math.sqrt(u.numel())


def test_a_sample_depends_on_its_own_key_whatever_stands_around_it():
    some = keys(5, "batch")
    x, u = keyed.normal(some, (3, 1, 7, 5)), keyed.uniform(some, 3)
    assert x.shape == (5, 3, 1, 7, 5)
    for i, one in enumerate(some):
        assert torch.equal(keyed.normal([one], (3, 1, 7, 5))[0], x[i])
        assert torch.equal(keyed.uniform([one], 3)[0], u[i])
    assert torch.equal(keyed.normal(some[3:1:-1], (3, 1, 7, 5)), x[[3, 2]])
    large = keyed.normal(some[:2], (1, 3, 123, 217))  # more numbers than are computed at once
    assert torch.equal(keyed.normal(some[1:2], (1, 3, 123, 217))[0], large[1])
    assert torch.equal(large[0].flatten()[:100], keyed.normal(some[:1], (100,))[0])


def test_numbers_drawn_without_content_leave_nothing_behind():
    """An estimate of the memory draws fake numbers, and what is cached then serves the training that follows."""
    code = """if True:
        import torch
        from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
        from t2x_core import keyed
        with FakeTensorMode(allow_non_fake_inputs=True):
            assert isinstance(keyed.normal([1, 2], (3, 4)), FakeTensor)
            assert isinstance(keyed.uniform([1], 2), FakeTensor)
            assert isinstance(torch.rand(2, generator=keyed.generator(0, "x")), FakeTensor)
        with torch.device("meta"), torch.inference_mode():
            keyed.normal([1], (3,)), keyed.generator(0, "x")
        drawn = keyed.normal([1], (3,)).tolist(), torch.rand(2, generator=keyed.generator(0, "x")).tolist()
        torch.set_default_dtype(torch.float64)
        print((drawn, (keyed.normal([1], (3,)).dtype, keyed.uniform([1], 1).dtype)))
    """
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    drawn = keyed.normal([1], (3,)).tolist(), torch.rand(2, generator=keyed.generator(0, "x")).tolist()
    assert ran.stdout == f"{(drawn, (torch.float32, torch.float64))}\n"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same_bits():
    some = keys(7, "gpu")
    assert torch.equal(keyed.normal(some, (3, 5, 33), "cuda").cpu(), keyed.normal(some, (3, 5, 33)))
    assert torch.equal(keyed.uniform(some, 5, "cuda").cpu(), keyed.uniform(some, 5))


def test_another_device_would_draw_the_same_bits(monkeypatch):
    """What runs on a device other than the CPU, on the CPU."""
    some = keys(3, "device")
    expected = keyed.normal(some, (1001,)), keyed.uniform(some, 3)
    monkeypatch.setattr(keyed, "_words", keyed.philox)
    assert torch.equal(keyed.normal(some, (1001,)), expected[0])
    assert torch.equal(keyed.uniform(some, 3), expected[1])


def test_a_million_keys_are_a_million_streams():
    """Of 32 bits about 116 of them would be the same."""
    a = np.array([keyed.key(0, "diffusion", 0, step, slot) >> 64 for step in range(1000) for slot in range(1000)])
    assert len(np.unique(a)) == 10**6


def test_the_generator_reads_more_than_32_bits_of_its_name():
    """Both pairs share the low 32 bits of their digest, all that `manual_seed` reads."""
    for a, b in (((38495, 1), (39144, 2)),):
        one, other = (keyed.digest(0, "diffusion", 0, *words) for words in (a, b))
        assert one % 2**32 == other % 2**32
        first, second = (keyed.generator(0, "diffusion", 0, *words) for words in (a, b))
        assert not torch.equal(torch.rand(2, generator=first), torch.rand(2, generator=second))
        assert not torch.equal(torch.randn(99, generator=first), torch.randn(99, generator=second))


def test_the_generator_is_a_mersenne_twister_whose_state_is_the_hash():
    """NumPy's twister with the same state draws the same words; so each of the 624 counts, and no other."""
    words = np.frombuffer(hashlib.shake_128(repr((7, "a", 3)).encode()).digest(2496), "<u4")
    twister = np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}
    expected = (twister.random_raw(2000) & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)
    assert np.array_equal(torch.rand(2000, generator=keyed.generator(7, "a", 3)).numpy(), expected)


def test_generators_are_their_own():
    a, b = keyed.generator(0, "x"), keyed.generator(0, "x")
    assert torch.equal(torch.randn(50, generator=a), torch.randn(50, generator=b))
    c = keyed.generator(0, "x")
    assert not torch.equal(torch.randn(50, generator=a), torch.randn(50, generator=c))


def test_the_numbers_are_the_same_as_ever():
    """Golden: a change here makes every run another run."""
    key = keyed.key(0, "diffusion", 0, 1, 2)
    assert key == GOLDEN_KEY
    assert keyed.uniform([key], 2)[0].tolist() == GOLDEN_UNIFORM
    torch.testing.assert_close(keyed.normal([key], (4,))[0], torch.tensor(GOLDEN_NORMAL), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.rand(2, generator=keyed.generator(0, "x", 1)), torch.tensor(GOLDEN_GENERATOR))


GOLDEN_KEY = 0xD104B7E9ACD8DDE995DBF7374A642DDB
GOLDEN_UNIFORM = [0.9400720953326375, 0.10847614289481033]
GOLDEN_NORMAL = [0.38326865434646606, -1.7534334659576416, -0.024012930691242218, 0.2349223494529724]
GOLDEN_GENERATOR = [0.936842679977417, 0.22678840160369873]
