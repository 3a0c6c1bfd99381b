"""Representation alignment, REPA (Yu et al. 2024, arXiv 2410.06940): hidden tokens are drawn to features of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2x_core.errors import UserError, did_you_mean
from t2x_core.frozen import Frozen
from t2x_core.hub import HubPlace
from t2x_core.recipe import RepaConfig
from t2x_core.types import Batch


class ImageEncoder(nn.Module):
    """A vision transformer of timm, and how it is given images.

    Args:
        random: it is left untrained.

    Raises:
        UserError: timm has no such encoder, or its weights are not there or do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: RepaConfig, random: bool) -> None:
        super().__init__()
        import timm  # costs a second

        if not timm.is_model(config.encoder):
            known = timm.list_pretrained("vit_*dino*")
            hint = did_you_mean(config.encoder, known) or f"timm has {known[0]}, say"
            raise UserError(f'timm has no encoder "{config.encoder}"', key="encoder", hint=hint)
        file = None if random else config.weights or _from_hub(timm.get_pretrained_cfg(config.encoder))
        if file is not None and not file.is_file():
            raise UserError(f"there is no file {file}", key="weights")
        overlay: dict[str, Any] = {} if file is None else {"pretrained_cfg_overlay": {"file": str(file)}}
        try:  # with its classifier, as timm is strict about the others' names then
            model: Any = timm.create_model(
                config.encoder, pretrained=file is not None, dynamic_img_size=True, **overlay
            )
            self.patch, (rows, columns) = model.patch_embed.patch_size, model.patch_embed.grid_size
            self.prefix, self.width = int(model.num_prefix_tokens), int(model.num_features)
        except (TypeError, AttributeError) as error:
            raise UserError(f"{config.encoder} is no vision transformer", key="encoder") from error
        except Exception as error:  # of safetensors and of timm, if the file is damaged or of another model
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"{file} does not fit {config.encoder}: {first}", key="weights") from error
        self.model, self.side = model, max(rows, columns)
        self.origin = f"random weights of {config.encoder}" if file is None else str(file)
        self.settings = config.encoder
        for name in ("mean", "std"):
            value = torch.tensor(model.pretrained_cfg[name]).view(-1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Images (M, 3, H, W) in [-1, 1] → features of the patches under a grid (h, w) of tokens, (M, h·w, width).

        Images are resized so that there is a patch for each token, but to no more patches along a side than the encoder
        was trained with; then its features are interpolated.
        """
        share = min(1.0, self.side / max(grid))
        rows, columns = (max(1, round(n * share)) for n in grid)
        size = rows * self.patch[0], columns * self.patch[1]
        images = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        found = self.model.forward_features((images / 2 + 0.5 - self.mean) / self.std)[:, self.prefix :]
        if (rows, columns) == grid:
            return found
        maps = found.transpose(1, 2).unflatten(2, (rows, columns))
        return F.interpolate(maps, grid, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)


class Alignment(nn.Module):
    """The term of the loss: a projection, which trains and is saved, and the encoder, which is referenced.

    Args:
        width, depth: of the backbone.
        untrained: the encoder is left so, to count what a step costs.

    Raises:
        UserError: the backbone has no such block, or the encoder cannot be had.
    """

    def __init__(self, config: RepaConfig, width: int, depth: int, untrained: bool = False) -> None:
        super().__init__()
        self.config, self.block = config, max(depth // 3 - 1, 0) if config.block is None else config.block
        if self.block >= depth:
            raise UserError(f"there is no block {self.block}: there are 0 to {depth - 1}", key="block")
        with torch.random.fork_rng(devices=[]):  # weights of the network do not depend on the encoder's
            torch.manual_seed(0)
            self.encoder = Frozen(ImageEncoder(config, config.random_weights or untrained))
        hidden, features = config.width, self.encoder.part.width
        self.projection = nn.Sequential(
            *(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, features))
        )

    def due(self, batch: Batch) -> bool:
        """Whether a batch is aligned: it has pixels, and its step is before `stop_step`; not in validation, whose loss
        is compared over all steps."""
        if not self.training or batch.pixels is None or not batch.keys:
            return False
        return self.config.stop_step is None or batch.keys[0].step < self.config.stop_step

    def forward(self, hidden: Tensor, pixels: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Weight times the mean over tokens of 1 − cosine similarity (the paper's eq. 8 up to a constant), (B,).

        Args:
            hidden: tokens (B, N, D) after the block, row by row of the token grid (f, h, w).
            pixels: (B, 3, F, H, W) in [-1, 1]. Of a codec that compresses time, the last of the frames that became one
                are seen.
        """
        features = self.features(pixels, grid)
        projected = self.projection(hidden).float()
        with torch.autocast(hidden.device.type, enabled=False):
            return self.config.weight * (1 - F.cosine_similarity(projected, features, dim=-1).mean(1))

    @torch.no_grad()
    def features(self, pixels: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """What the encoder says of each frame by itself, (B, N, width) float32."""
        frames, height, width = grid
        chosen = [round(i * (pixels.shape[2] - 1) / max(frames - 1, 1)) for i in range(frames)]
        images = pixels[:, :, chosen].transpose(1, 2).flatten(0, 1).float()  # (B·f, 3, H, W)
        with torch.autocast(pixels.device.type, enabled=False):
            found = self.encoder.on(pixels.device)(images, (height, width))
        return found.unflatten(0, (-1, frames)).flatten(1, 2)


def _from_hub(known: Any) -> Path:
    """The safetensors file of weights that timm knows, fetched if the hub's cache does not hold it."""
    if known is None or not known.hf_hub_id:
        hint = "choose a name with a tag, as in vit_base_patch14_dinov2.lvd142m, or set weights"
        raise UserError("timm knows no weights of this encoder", key="encoder", hint=hint)
    return HubPlace(known.hf_hub_id, None, "model.safetensors").fetch()[0]
