import pytest
import torch

from t2x_core.training.precision import resolve_precision


@pytest.mark.parametrize("asked", ["32-true", "bf16-mixed"])
def test_what_is_asked_for_is_given(asked):
    assert resolve_precision(asked, "cpu") == asked


@pytest.mark.parametrize(
    ("avx512", "amx", "expected"),
    [(False, False, "32-true"), (True, False, "bf16-mixed"), (False, True, "bf16-mixed")],
)
def test_auto_asks_the_cpu_for_bf16_units(avx512, amx, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert resolve_precision("auto", "cpu") == expected


@pytest.mark.parametrize(("has", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_asks_the_gpu(has, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has)
    assert resolve_precision("auto", "gpu") == expected
    assert resolve_precision("auto", "auto") == expected
