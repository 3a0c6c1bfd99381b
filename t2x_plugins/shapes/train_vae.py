"""Trains a small VAE: an `AutoencoderKL` of diffusers with 0.4 M parameters, a codec for trials without a download.

    python -m t2x_plugins.shapes.train_vae OUT [--images FOLDER] [--steps 6000]

It maps 64 × 64 pixels to 16 × 16 × 16 latents. It learns scenes of the shapes world (all backgrounds, training split)
and, with `--images`, PNG images of a folder on random plain backgrounds. It needs the extra `pretrained`.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .render import render
from .scene import sample_scene

SIZE = 64
"""Height and width of a training image, in pixels."""
LATENT_CHANNELS = 16
"""Sharp edges need eight: with four the checker of the shapes world no longer knows a circle from a hexagon."""
KL_WEIGHT = 1e-5
"""Weight of the KL divergence to a standard normal, per latent value."""


def build_vae() -> Any:
    """The network, with random weights."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 48),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SIZE,
    )


@torch.no_grad()
def grow(vae: Any, folder: Path) -> None:
    """Gives `vae` the weights of one with fewer latent channels, so that both compute the same at first: the further
    channels are read by the encoder as its random weights have it, and weigh nothing in the decoder."""
    old = type(vae).from_pretrained(folder, low_cpu_mem_usage=False).state_dict()
    few, many = old["post_quant_conv.bias"].numel(), vae.config.latent_channels
    moments = torch.cat((torch.arange(few), many + torch.arange(few)))  # means, then log variances
    every = {
        "encoder.conv_out": (moments, None),
        "quant_conv": (moments, moments),
        "post_quant_conv": (torch.arange(few), torch.arange(few)),
        "decoder.conv_in": (None, torch.arange(few)),
    }
    for name, parameter in vae.named_parameters():
        rows, columns = every.get(name.rpartition(".")[0], (None, None))
        if name.endswith("quant_conv.weight"):
            nn.init.dirac_(parameter)
        elif name.endswith("quant_conv.bias") or name == "decoder.conv_in.weight":
            nn.init.zeros_(parameter)
        rows = torch.arange(len(parameter)) if rows is None else rows
        if parameter.ndim == 1:
            parameter[rows] = old[name]
        else:
            columns = torch.arange(parameter.shape[1]) if columns is None else columns
            parameter[rows[:, None], columns] = old[name]


class Images:
    """Random training images: scenes of the shapes world, and images of a folder on plain backgrounds."""

    def __init__(self, folder: Path | None, seed: int) -> None:
        self.rng, self.seed, self.count = np.random.default_rng(seed), seed, 0
        files = sorted(folder.glob("*.png")) if folder else []
        self.others = [Image.open(f).convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS) for f in files]

    def batch(self, size: int) -> Tensor:
        """(size, 3, SIZE, SIZE) in [-1, 1]; a third of them from the folder, if there is one."""
        others = size // 3 if self.others else 0
        images = [self._scene() for _ in range(size - others)] + [self._other() for _ in range(others)]
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1

    def crop(self, x: Tensor) -> Tensor:
        """A square of half the height and width of each of x (B, 3, H, W), more often where there is more to see."""
        side, grid = SIZE // 2, SIZE // 8
        windows = x.unfold(2, side, grid).unfold(3, side, grid).flatten(2, 3).transpose(1, 2)  # (B, places, 3, h, w)
        chance = windows.var((3, 4)).sum(2).numpy() + 0.01
        chosen = [self.rng.choice(len(row), p=row / row.sum()) for row in chance.astype(np.float64)]
        return torch.stack([places[place] for places, place in zip(windows, chosen, strict=True)])

    def _scene(self) -> np.ndarray:
        self.count += 1
        return render(sample_scene(self.seed, self.count, "train", two_objects=0.3), SIZE)

    def _other(self) -> np.ndarray:
        chosen = self.others[self.rng.integers(len(self.others))]
        plain = [(255, 255, 255), (0, 0, 0), tuple(int(c) for c in self.rng.integers(0, 256, 3))]
        background = Image.new("RGBA", (SIZE, SIZE), plain[self.rng.integers(3)])
        return np.asarray(Image.alpha_composite(background, chosen).convert("RGB"))


def train(vae: Any, images: Images, steps: int, batch: int = 16, lr: float = 2e-3) -> None:
    """Minimises L1 + 10 · squared error + KL_WEIGHT · KL, with a cosine schedule.

    The first seven eighths of the steps see crops of half the size, since the network is convolutional; the rest see
    whole images. It computes in bfloat16, which is twice as fast; the weights and the last steps are float32.
    """
    optimizer = torch.optim.AdamW(vae.parameters(), lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.05)
    half = copy.deepcopy(vae).bfloat16()
    own, halves = list(vae.parameters()), list(half.parameters())
    for step in range(1, steps + 1):
        x = images.batch(batch)
        if step <= steps * 7 // 8:
            x = images.crop(x)
        if step <= steps * 19 // 20:
            with torch.no_grad():
                torch._foreach_copy_(halves, own)
            kl, error, mean_square = _losses(half, x)
            (error + KL_WEIGHT * kl).backward()
            for p, q in zip(own, halves, strict=True):
                assert q.grad is not None
                p.grad, q.grad = q.grad.float(), None
        else:
            kl, error, mean_square = _losses(vae, x)
            (error + KL_WEIGHT * kl).backward()
        nn.utils.clip_grad_norm_(own, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps:
            psnr = 10 * (4 / mean_square).log10()
            print(f"step {step}: error {error:.4f}, KL {kl:.2f}, {psnr:.1f} dB", flush=True)


def _losses(vae: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """KL divergence, reconstruction error and mean squared error of images x (B, 3, H, W)."""
    posterior = vae.encode(x.to(next(vae.parameters()).dtype)).latent_dist
    y = vae.decode(posterior.sample()).sample.float()
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    mean_square = (x - y).square().mean()
    return kl, (x - y).abs().mean() + 10 * mean_square, mean_square


@torch.no_grad()
def measure_scaling(vae: Any, images: Images, count: int = 512) -> tuple[float, float]:
    """(shift, scale) that give latents of the training images mean 0 and variance 1: z = (latent - shift) · scale."""
    latents = vae.encode(images.batch(count)).latent_dist.mean
    return float(latents.mean()), float(1 / latents.std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for config.json and the weights (float16)")
    parser.add_argument("--images", type=Path, help="folder of PNG images to learn beside the shapes world")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--start", type=Path, help="folder of such a VAE with fewer latent channels, to start from")
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    vae, images = build_vae(), Images(options.images, options.seed)
    if options.start is not None:
        grow(vae, options.start)
    train(vae, images, options.steps, lr=options.lr)
    vae = vae.half().float().eval()  # measured and used as it is stored
    shift, scale = measure_scaling(vae, images)
    vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    vae.half().save_pretrained(options.out)
    print(json.dumps({"shift_factor": shift, "scaling_factor": scale}))


if __name__ == "__main__":
    main()
