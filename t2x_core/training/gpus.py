"""What GPUs can do: arithmetic, memory and power, as their makers have it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from t2x_core.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU. TFLOP/s are without sparsity; None: it has no such units."""

    name: str
    pattern: str
    """What the driver calls it, as a regular expression."""
    bf16: float | None
    """TFLOP/s of products in bfloat16 with sums in float32."""
    tf32: float | None
    float32: float
    memory: float | None
    """GiB ("80 GB" on a data sheet); None: it comes with several."""
    watts: float | None
    """Most that the board takes; None: it can be set, or is shared with the processor."""

    def flops(self, precision: str, exact: bool) -> float | None:
        """Operations per second in the arithmetic of a run ("bf16-mixed", "32-true" …).

        Args:
            exact: whether products of float32 are of float32 ("highest" of torch), and not of TF32.
        """
        rate = self.bf16 if precision.startswith("bf16") else self.float32 if exact else self.tf32
        return None if rate is None else rate * 1e12


GPUS = (
    Gpu("H200", "H200", 989.4, 494.7, 66.9, 141, 700),
    Gpu("GH200", "GH200", 989.4, 494.7, 66.9, None, None),
    Gpu("H100 PCIe", "H100 PCIe", 756.0, 378.0, 51.2, 80, 350),
    Gpu("H100", "H100 80GB HBM3|H100 SXM|H100$", 989.4, 494.7, 66.9, 80, 700),
    Gpu("A100 40GB", "A100.*40GB", 312.0, 156.0, 19.5, 40, 400),
    Gpu("A100 PCIe", "A100 80GB PCIe|A100 PCIe", 312.0, 156.0, 19.5, 80, 300),
    Gpu("A100", "A100", 312.0, 156.0, 19.5, 80, 400),
    Gpu("L40S", "L40S", 362.0, 183.0, 91.6, 48, 350),
    Gpu("L4", "L4", 121.0, 60.0, 30.3, 24, 72),
    Gpu("A10", "A10", 125.0, 62.5, 31.2, 24, 150),
    Gpu("V100", "V100", None, None, 15.7, 32, 300),
    Gpu("RTX 4090", "RTX 4090", 165.2, 82.6, 82.6, 24, 450),
    Gpu("RTX 3090", "RTX 3090", 71.0, 35.6, 35.6, 24, 350),
)
"""From NVIDIA's data sheets of H100, H200, A100, L40S, L4, A10 and V100 (half of what they print "with sparsity"; SXM
modules where the name does not say PCIe), and from its white papers on Ada (v2.1) and on GA102 (v2), appendices A."""


def known_gpu(name: str) -> Gpu | None:
    """A GPU by what its driver calls it ("NVIDIA H100 80GB HBM3"), or None."""
    return next((gpu for gpu in GPUS if re.search(rf"\b(?:{gpu.pattern})(?:\b|$)", name, re.IGNORECASE)), None)


def find_gpu(name: str) -> Gpu:
    """A GPU by what somebody calls it; UserError if it is not known."""
    if (gpu := known_gpu(" ".join(name.split()))) is None:
        names = [gpu.name for gpu in GPUS]
        plain = re.sub("(?i)nvidia|geforce", "", name).strip()
        hint = did_you_mean(plain, names) or f"there are: {', '.join(names)}"
        raise UserError(f'no device "{name}" is known', where="command line", hint=hint)
    return gpu
