"""The one LightningModule: a shared backbone, and the adapters and losses of the tasks that train it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from t2x_core import keyed
from t2x_core.backbone import Once, PTDiT
from t2x_core.data.mixture import VAL_STEP
from t2x_core.diffusion import RectifiedFlow, logit_normal, shift
from t2x_core.errors import UserError
from t2x_core.interfaces import ConditioningAdapter, LatentCodec, Loss, TextEncoder
from t2x_core.optim import GradientClipping, StepGate, build_optimizer, build_schedule, mark_tables
from t2x_core.recipe import DiffusionConfig, OptimizerConfig
from t2x_core.tensor_files import StoredTensor
from t2x_core.types import Batch, Bucket, Conditioning, SampleKey


@dataclass(frozen=True)
class Draws:
    """What is random about the samples of a batch."""

    t: Tensor
    """(B,) times in [0, 1]."""
    noise: Tensor
    """(B, C, F, H, W)."""
    dropped: Tensor
    """(B,) bool: this sample is trained without its condition."""


class T2XModule(L.LightningModule):
    """Trains PT-DiT on any number of tasks.

    Args:
        backbone, codec, text_encoder: shared by all tasks.
        adapters, losses: task name → its own.
        separate_frames: tasks whose frames are pictures by themselves to the codec.
        diffusion, optimizer: blocks of the recipe.
        max_steps: optimizer steps of the whole run (for the learning rate).
        seed: of the recipe.
    """

    strict_loading = False  # parts that come frozen are in no checkpoint; `on_load_checkpoint` is strict about the rest

    def __init__(
        self,
        backbone: PTDiT,
        codec: LatentCodec,
        text_encoder: TextEncoder | None,
        adapters: Mapping[str, ConditioningAdapter],
        losses: Mapping[str, Loss],
        *,
        separate_frames: Collection[str] = (),
        diffusion: DiffusionConfig,
        optimizer: OptimizerConfig,
        max_steps: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.backbone, self.codec, self.text_encoder = backbone, codec.requires_grad_(False), text_encoder
        self.adapters = nn.ModuleDict(adapters)
        self.losses = dict(losses)
        self.separate_frames = frozenset(separate_frames)
        self.path = RectifiedFlow(diffusion.prediction)
        self.diffusion, self.optimizer_config = diffusion, optimizer
        mark_tables(self)
        self.max_steps, self.seed = max_steps, seed
        self.frozen: frozenset[str] = frozenset()
        """Names of parameters that `optimizer.freeze` keeps from being trained."""
        self.gradient_parts: tuple[str, ...] = ()
        """Names of the parts of the network whose gradients are measured."""
        self.gate: StepGate | None = None
        """Decides whether an optimizer step is taken; None: all are."""
        self.gradient_squares: Tensor | None = None
        """(parts,) squared norm of each part's gradient in the last optimizer step, before clipping."""

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        latents = self.encode(batch)  # (B, C, F, H, W)
        draws = self.draw(batch.keys, latents)
        conditioning = self.condition(batch, draws.dropped)
        noised = self.path.corrupt(latents, draws.noise, draws.t)
        output = self.predict(noised.latents, noised.t, conditioning)  # (B, C, F, H, W)
        velocity = self.path.velocity(output, noised.latents, noised.t)  # (B, C, F, H, W)
        losses = self.losses[batch.task](velocity, noised, batch)  # (B,)
        return {"loss": losses.mean(), "losses": losses.detach(), "t": draws.t, "tokens": self.tokens(latents)}

    def tokens(self, latents: Tensor) -> int:
        """Tokens that the backbone sees of latents (B, C, F, H, W): B·N."""
        return latents[:, 0].numel() // self.backbone.config.patch_size**2

    def encode(self, batch: Batch) -> Tensor:
        """The batch's pixels as latents (B, C, F, H, W)."""
        assert batch.pixels is not None
        with torch.no_grad():
            return self._coded(self.codec.encode, batch.pixels, batch.task)

    def decode(self, latents: Tensor, task: str) -> Tensor:
        """Latents (B, C, F, H, W) of a task as pixels."""
        return self._coded(self.codec.decode, latents, task)

    def latent_shape(self, bucket: Bucket, task: str) -> tuple[int, int, int, int]:
        """(C, F, H, W) of the latents of a sample of this shape."""
        if task not in self.separate_frames:
            return self.codec.latent_shape(bucket)
        channels, _, height, width = self.codec.latent_shape(replace(bucket, frames=1))
        return channels, bucket.frames, height, width

    def _coded(self, code: Callable[[Tensor], Tensor], x: Tensor, task: str) -> Tensor:
        """`code` of x (B, C, F, H, W); where frames are separate, of each by itself."""
        if task not in self.separate_frames:
            return code(x)
        coded = code(x.transpose(1, 2).flatten(0, 1).unsqueeze(2))  # (B·F, C, 1, H, W)
        return coded.squeeze(2).unflatten(0, (len(x), -1)).transpose(1, 2)

    def prepare(self, batch: Batch) -> None:
        """Makes the tables that the network caches for a batch of this shape."""
        one = batch.select([0])
        with torch.no_grad():
            latents = self.encode(one)
            conditioning = self.condition(one, torch.zeros(1, dtype=torch.bool, device=latents.device))
        self.backbone.prepare(latents, conditioning.frame_axis)

    def draw(self, keys: Sequence[SampleKey], latents: Tensor) -> Draws:
        """Time, noise and condition dropout of each sample, from its key alone, whatever the device.

        The times of validation samples are spread evenly over the set, so that few samples measure the loss well.
        """
        own = [keyed.key(self.seed, "diffusion", key.attempt, key.step, key.slot) for key in keys]
        time, drop = keyed.uniform(own, 2).unbind(1)
        for i, key in enumerate(keys):
            if key.step == VAL_STEP:
                time[i] = keyed.evenly(key.slot, self.seed, "validation")
        return Draws(
            t=self.times(time).to(latents),
            noise=keyed.normal(own, latents.shape[1:], latents.device).to(latents),
            dropped=(drop < self.diffusion.condition_dropout).to(latents.device),
        )

    def times(self, u: Tensor) -> Tensor:
        """Uniform numbers (B,) in [0, 1) → the times that are trained on, (B,)."""
        config = self.diffusion.timesteps
        pure = u >= 1 - config.pure_noise
        u = (u / max(1 - config.pure_noise, 1e-9)).clamp(1e-9, 1 - 1e-9)
        t = logit_normal(u, config.mean, config.std) if config.distribution == "logit-normal" else u
        return torch.where(pure, 1.0, shift(t, config.shift))

    def condition(self, batch: Batch, dropped: Tensor) -> Conditioning:
        """The batch's conditioning, the unconditional one where `dropped` (B,) is true."""
        adapter: Any = self.adapters[batch.task]
        conditioning = adapter(batch, self.text_encoder)
        return conditioning.where(dropped, adapter.null(conditioning))

    def velocity(self, latents: Tensor, t: Tensor, conditioning: Conditioning, once: Once | None = None) -> Tensor:
        """The velocity ε - x₀ (B, C, F, H, W) that a sampler follows from `latents` (alike) at `t` (B,) > 0.

        `once` is for the steps of a sampler, which have the same conditioning.
        """
        return self.path.exact.velocity(self.predict(latents, t, conditioning, once), latents, t)

    def predict(self, latents: Tensor, t: Tensor, conditioning: Conditioning, once: Once | None = None) -> Tensor:
        """What the network says of `latents` (B, C, F, H, W) at `t` (B,), alike: a velocity, or clean latents."""
        return self.backbone(latents, t, conditioning, once)[:, : latents.shape[1]].float()

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the optimizer and the average cover."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)

    def saved(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What checkpoints hold: all that is trained, and what the recipe froze by name."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad or name in self.frozen)

    def configure_optimizers(self) -> Any:
        mark_tables(self)  # again: sharding makes other parameters of them
        optimizer = build_optimizer(self.trainable(), self.optimizer_config)
        schedule = build_schedule(optimizer, self.optimizer_config, self.max_steps)
        self._clip = GradientClipping(self.trainable(), self.optimizer_config.clip_norm)
        self.gradient_parts = self._clip.parts
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        self.gradient_squares = self._clip()
        if self.gate is not None:
            self.gate(self.gradient_squares)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        names = {name for name, _ in self.saved()}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in names}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_shapes({name: p.shape for name, p in self.saved()}, checkpoint["state_dict"])


def check_shapes(
    wanted: Mapping[str, torch.Size], found: Mapping[str, Tensor | StoredTensor], where: str | None = None
) -> None:
    """Raises UserError, naming up to three tensors, if a checkpoint (the file `where`) is one of another model."""
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is not of this model" for name in found if name not in wanted]
    problems += [
        f"{name} is {tuple(found[name].shape)}, not {tuple(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name].shape != shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"the checkpoint is of another model than the recipe: {', '.join(problems[:3])}{more}",
            where=where,
            hint="sample and resume with the recipe that it was trained with",
        )
