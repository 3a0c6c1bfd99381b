"""From captions and cameras to the conditioning of the backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from t2x_core.conditioning import TextConditioning
from t2x_core.interfaces import ConditioningAdapter, ModelContext
from t2x_core.types import Batch, Conditioning, FrameAxis, LatentShape, TextTokens
from t2x_plugins.text_to_multiview.cameras import Cameras
from t2x_plugins.text_to_multiview.multiview_config import ViewConditioningConfig, ViewsConfig

HARMONICS = 4
"""Of the azimuth: the k-th goes round k times in a turn."""
FEATURES = 2 * HARMONICS + 11
"""Numbers that name a camera, see `camera_features`."""
EMBEDDING = 128
"""Df, width of a view's embedding."""


def camera_features(cameras: Cameras) -> Tensor:
    """(…, F, FEATURES) of cameras (…, F): where each stands (sines and cosines of azimuth and elevation, log of the
    distance), how it is turned (in its own axes, the world's up and the direction of the origin), and its intrinsics.
    """
    azimuth, elevation, distance = cameras.angles()
    harmonics = torch.arange(1, HARMONICS + 1, dtype=azimuth.dtype, device=azimuth.device)
    turns = torch.deg2rad(azimuth).unsqueeze(-1) * harmonics
    level = torch.deg2rad(elevation)
    turn, place = cameras.poses[..., :3, :3], cameras.poses[..., :3, 3:]
    up = turn[..., 2, :2]
    origin = -(turn * place).sum(-2)[..., :2] / distance.unsqueeze(-1)
    fx, fy, cx, cy = cameras.intrinsics.unbind(-1)
    lens = torch.stack((-(2 * fx).log(), (fy / fx).log(), cx - 0.5, cy - 0.5), -1)
    others = torch.stack((level.sin(), level.cos(), distance.log()), -1)
    return torch.cat((turns.sin(), turns.cos(), others, up, origin, lens), -1)


class ViewConditioning(ConditioningAdapter):
    """The caption's tokens, and the camera of each view. "No caption" keeps the cameras: guidance is of the text."""

    def __init__(self, context: ModelContext, config: ViewConditioningConfig, views: ViewsConfig) -> None:
        super().__init__()
        self.text = TextConditioning(context, null=config.null, pooled=config.pooled)
        self.views, self.camera = views, config.camera
        self.embed: nn.Module | None = None
        if config.camera == "embedding":
            self.embed = nn.Sequential(nn.Linear(FEATURES, EMBEDDING), nn.SiLU(), nn.Linear(EMBEDDING, EMBEDDING))
            self.dims = replace(self.text.dims, frames=EMBEDDING)
        else:
            self.dims = replace(self.text.dims, concat=6)

    def forward(self, batch: Batch, text: Mapping[str, TextTokens], latent_shape: LatentShape) -> Conditioning:
        cond = self.text(batch, text, latent_shape)
        cameras = Cameras.from_extra(batch.extra)  # (B, F, 4, 4)
        window = cameras.poses.shape[1] if self.views.window == "all" else self.views.window
        return replace(
            cond,
            frames=None if self.embed is None else self.embed(camera_features(cameras)),  # (B, F, Df)
            concat=cameras.pluecker(*latent_shape[2:]) if self.embed is None else None,  # (B, 6, F, H', W')
            frame_axis=FrameAxis(window=window, circular=self.views.circular, frame_positions=False),
        )

    def null(self, conditioning: Conditioning) -> Conditioning | None:
        cond = self.text.null(conditioning)
        if cond is None:
            return None
        return replace(conditioning, text=cond.text, text_mask=cond.text_mask, vector=cond.vector)
