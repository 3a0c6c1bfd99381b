"""What `precision: auto` means on this machine."""

from __future__ import annotations

from typing import Any

import torch


def resolve_precision(precision: str, accelerator: str) -> Any:
    """`precision`, with "auto" → "bf16-mixed" where the hardware multiplies bf16 matrices itself, else "32-true".

    A CPU without such units does it about 100 times slower than float32, so it has to be asked.
    """
    if precision != "auto":
        return precision
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if units else "32-true"
