"""The task text-to-multiview."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from t2x_core.interfaces import Component, ConditioningAdapter, Loss, ModelContext, SourcedTask
from t2x_core.losses import named_loss
from t2x_core.plugins import hookimpl
from t2x_core.rendering import caption_grid
from t2x_core.types import Batch, Bucket, RenderedSamples
from t2x_plugins.text_to_multiview.camera_files import OWN
from t2x_plugins.text_to_multiview.cameras import Cameras
from t2x_plugins.text_to_multiview.conditioning import ViewConditioning
from t2x_plugins.text_to_multiview.data import Turntables
from t2x_plugins.text_to_multiview.multiview_config import TextToMultiviewConfig, TurntablesConfig
from t2x_plugins.text_to_multiview.objects import Objects
from t2x_plugins.text_to_multiview.objects_config import ObjectsConfig

TURN_SECONDS = 2.4
"""How long a whole turn takes in an animation."""
STRIP_PIXELS = 64
"""Least size of a view in the still image."""


class TextToMultiview(SourcedTask[TextToMultiviewConfig]):
    """Views of one object or scene, from a caption and cameras; the views stand on the F axis."""

    separate_frames = True

    def adapter(self, context: ModelContext) -> ConditioningAdapter:
        return ViewConditioning(context, self.config.conditioning, self.config.views)

    def loss(self) -> Loss:
        return named_loss(self.config.loss.weighting, self.config.loss.min_snr_gamma)

    def bucket(self) -> Bucket:
        asked = self.config.asked
        return Bucket(asked.views, asked.size, asked.size)

    def conditions(self, prompts: Sequence[str]) -> Batch:
        """All prompts are seen from the turntable that `self.config.sampling` asks for."""
        asked = self.config.asked
        cameras = Cameras.turntable(asked.views, asked.azimuth, asked.elevation, asked.distance, asked.fov)
        extra = {name: part.expand(len(prompts), *part.shape) for name, part in cameras.extra().items()}
        return Batch(self.name, tuple(prompts), extra=extra)

    def render(self, samples: Tensor, conditions: Batch) -> RenderedSamples:
        """An animation in which the samples turn, and an image with a row of views for each."""
        views = samples.shape[2]
        turning = caption_grid(samples, conditions.captions, fps=views / TURN_SECONDS)
        if views == 1:
            return turning
        scale = -(-STRIP_PIXELS // samples.shape[-1])
        large = samples.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
        rows = large.permute(0, 1, 3, 2, 4).flatten(3).unsqueeze(2)  # (B, 3, 1, H, F·W)
        still = caption_grid(rows, conditions.captions, columns=1).frames[0]
        return RenderedSamples(turning.frames, turning.fps, still)

    def records(self, conditions: Batch, files: Sequence[str]) -> Mapping[str, Any]:
        """`cameras.json`, as a folder of one's own objects has it."""
        cameras = Cameras.from_extra(conditions.extra)
        views = zip(files, cameras.poses[0].tolist(), cameras.fov[0].tolist(), strict=True)
        listed = [{"file": file, "camera_to_world": pose, "fov": fov} for file, pose, fov in views]
        return {OWN: {"caption": conditions.captions[0], "views": listed}}


@hookimpl
def t2x_register() -> Sequence[Component]:
    return [
        Component("text-to-multiview", TextToMultiviewConfig, TextToMultiview),
        Component("turntables", TurntablesConfig, Turntables),
        Component("objects", ObjectsConfig, Objects),
    ]
