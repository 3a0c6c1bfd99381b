"""Images that are given to sample from: `Task.encoded_controls` and others, besides the prompt."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from t2x_core.data.decode import DamagedImageError, decode, fit_to
from t2x_core.data.flat import flat
from t2x_core.errors import UserError, did_you_mean
from t2x_core.interfaces import Task
from t2x_core.types import Batch, Bucket

BACKGROUND = (255, 255, 255)
"""Behind transparent pixels: white, as in training data by default."""


def check_inputs(known: Mapping[str, str], given: Mapping[str, Any], task: str) -> None:
    """UserError for a name that the task does not know. `known`: name → meaning."""
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known) or (f"its inputs: {', '.join(known)}" if known else "it takes none")
            raise UserError(f'{task} takes no input "{name}"', hint=hint)


def with_inputs(conditions: Batch, task: Task[Any], inputs: Mapping[str, Any], bucket: Bucket) -> Batch:
    """The conditions with the given images as controls (B, 3, F, H, W).

    Args:
        inputs: name → an image for all samples, or a list with one for each: a file, an image of Pillow, or a tensor
            (3, H, W) or (3, F, H, W) in [-1, 1]. Images are resized to cover the sample, and cropped.

    Raises:
        UserError: one is not known, cannot be read, or is missing though the task encodes it.
    """
    known = task.config.inputs()
    check_inputs(known, inputs, task.name)
    controls = dict(conditions.controls)
    for name, value in inputs.items():
        several = list(value) if isinstance(value, list | tuple) else [value]
        if len(several) not in (1, len(conditions)):
            raise UserError(f"there are {len(several)} images for the input {name}, and {len(conditions)} prompts")
        pixels = [load_image(one, name, bucket) for one in several]
        shapes = {tuple(one.shape) for one in pixels}
        if len(shapes) > 1:
            raise UserError(f"the images for the input {name} have different numbers of frames")
        stacked = torch.stack(pixels)
        controls[name] = stacked.expand(len(conditions), *stacked.shape[1:])
    for name in task.encoded_controls:
        if name not in controls and name not in conditions.encoded_controls:
            what = f" ({known[name]})" if name in known else ""
            hint = f"--input {name}=FILE on the command line, inputs={{{name!r}: …}} in Python"
            raise UserError(f"{task.name} needs an image for {name}{what}", hint=hint)
    return replace(conditions, controls=controls)


def load_image(value: Any, name: str, bucket: Bucket) -> Tensor:
    """Pixels (3, F, height, width) in [-1, 1] of the bucket's size."""
    height, width = bucket.height, bucket.width
    if isinstance(value, Tensor):
        pixels = value.unsqueeze(1) if value.ndim == 3 else value
        if pixels.ndim != 4 or pixels.shape[0] != 3 or pixels.shape[2:] != (height, width):
            found = tuple(value.shape)
            raise UserError(f"the input {name} is {found}, not (3, {height}, {width}) or (3, F, {height}, {width})")
        if not pixels.is_floating_point() or not bool((pixels.abs() <= 1 + 1e-3).all()):
            raise UserError(f"the input {name} must be floating-point, finite and in [-1, 1]")
        return pixels.float()
    if isinstance(value, Image.Image):
        plain = flat(ImageOps.exif_transpose(value), BACKGROUND, "", "")
        return fit_to(torch.from_numpy(np.array(plain)).permute(2, 0, 1), height, width)
    if not isinstance(value, str | os.PathLike):
        kinds = "a file, an image of Pillow, or a tensor"
        raise UserError(f"the input {name} must be {kinds}, not {type(value).__name__}")
    try:
        return fit_to(decode(os.fspath(value), BACKGROUND, covering=(height, width)), height, width)
    except DamagedImageError as error:
        raise UserError(f"the input {name}: {os.fspath(value)} {error}") from error


def expanded(inputs: Mapping[str, Sequence[Any]], prompts: int, each: int) -> dict[str, list[Any]]:
    """One image for each sample, where each prompt has `each` samples; UserError if neither one nor one a prompt."""
    found = {}
    for name, values in inputs.items():
        if len(values) not in (1, prompts):
            raise UserError(f"there are {len(values)} images for the input {name}, and {prompts} prompts")
        found[name] = [value for value in values for _ in range(each)] if len(values) > 1 else list(values)
    return found
