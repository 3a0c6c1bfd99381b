"""What the core looks at in what plugins return: a few comparisons a batch, and more of a task's first one.

Each raises a TypeError or a ValueError, of which `Calls` makes a line with the plugin's name.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from t2x_core.backbone.conditioning_parts import check_part
from t2x_core.frozen import Codec
from t2x_core.types import Conditioning, ConditioningDims, LatentShape


def check_conditioning(found: object, dims: ConditioningDims, batch: int, latent_shape: LatentShape) -> None:
    """What an adapter's `forward` returned for so many samples: the parts that `dims` names, of these widths."""
    if not isinstance(found, Conditioning):
        raise TypeError(f"it must return a Conditioning, not {type(found).__name__}")
    for part in (field.name for field in fields(dims)):
        value, width = getattr(found, part), getattr(dims, part)
        if value is None:
            continue
        if not isinstance(value, Tensor) or value.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            kind = str(value.dtype).removeprefix("torch.") if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{part} is {kind}; make it float32")
        check_part(part, value, batch, latent_shape[1:])
        if (own := value.shape[1 if part == "concat" else -1]) != width:
            raise ValueError(f"{part} is {own} wide; dims says {width}")
    text, mask = found.text, found.text_mask
    if text is not None and mask is None:
        raise ValueError("there is text and no text_mask")
    if mask is not None and (text is None or mask.shape != text.shape[:2] or mask.dtype != torch.bool):
        raise ValueError(
            f"text_mask is {mask.dtype} {tuple(mask.shape)}, not bool (B, T) of text".replace("torch.", "")
        )


def check_null(null: object, given: Conditioning) -> None:
    """What `null` returned for what `forward` returned."""
    if not isinstance(null, Conditioning):
        raise TypeError(f"it must return a Conditioning, not {type(null).__name__}")
    for part in (*(field.name for field in fields(ConditioningDims)), "text_mask"):
        mine, theirs = getattr(given, part), getattr(null, part)
        if mine is not None and theirs is None:
            raise ValueError(f"null leaves out {part}, which forward returns: return all parts")
        if mine is None and theirs is not None:
            raise ValueError(f"null returns {part}, which forward does not")
        if mine is not None and mine.shape != theirs.shape:
            raise ValueError(f"{part} of null is {tuple(theirs.shape)}, of forward {tuple(mine.shape)}")


def check_codec(codec: Codec, pixels: Tensor, separate: bool) -> None:
    """That it stays in eval mode, and gives the same latents of the same pixels (1, 3, F, H, W)."""
    first = codec.encode(pixels, separate)
    if any(module.training for module in codec.part.modules()):
        raise ValueError("it is in train mode after it: call no .train() in it")
    again = codec.encode(pixels, separate)
    slack = 0.0 if pixels.device.type == "cpu" else 1e-3 * float(first.std())  # what kernels add up in any order
    if not torch.allclose(first, again, rtol=0, atol=slack):
        raise ValueError(
            "the same pixels give other latents the second time: return the mean of the distribution, not a sample of "
            "it, without dropout"
        )


def check_losses(losses: Tensor, velocity: Tensor) -> None:
    """That the losses (B,) are not all NaN or infinite where the velocity is finite."""
    if not losses.isfinite().any() and velocity.isfinite().all():
        raise ValueError(f"the loss is NaN or infinite for all {len(losses)} samples, and the velocity is finite")
