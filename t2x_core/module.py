"""The one LightningModule: a shared backbone, and the adapters and losses of the tasks that train it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from t2x_core.backbone import ConditioningCache, PTDiT
from t2x_core.cache.cache import Cache
from t2x_core.calls import Calls
from t2x_core.data.text import Tokenizer
from t2x_core.diffusion import Draws, automatic_shift, draw, make_path
from t2x_core.errors import UserError
from t2x_core.frozen import Codec, Frozen, LaterEncoder, check_records, encode_texts
from t2x_core.interfaces import ConditioningAdapter, LatentCodec, Loss, Task, TextEncoder
from t2x_core.lora.network import Base
from t2x_core.losses import TaskLoss
from t2x_core.optim import GradientClipping, StepGate, build_optimizer, build_schedule, mark_tables
from t2x_core.outline import outline_mode
from t2x_core.plugin_checks import check_codec, check_conditioning, check_losses, check_null
from t2x_core.recipe import DiffusionConfig, OptimizerConfig
from t2x_core.repa import Alignment
from t2x_core.tensor_files import check_shapes
from t2x_core.types import Batch, Bucket, Conditioning, LatentShape, SampleKey, TextTokens


class T2XModule(L.LightningModule):
    """Trains PT-DiT on any number of tasks.

    What is trained or stored is in its tree of modules: backbone, text encoders that train, adapters, losses. The codec
    and the frozen text encoders stand outside of it (`Frozen`).

    Args:
        backbone, codec: shared by all tasks.
        text_encoders: name in the recipe → a text encoder; all see every caption.
        tasks, adapters, losses: task name → its own.
        diffusion, optimizer: blocks of the recipe.
        max_steps: optimizer steps of the whole run (for the learning rate).
        seed: of the recipe.
        alignment: of hidden tokens; None: there is none.
        calls: knows which plugin each part is of.
        cache: of latents and text; None: there is none.
    """

    strict_loading = False  # `on_load_checkpoint` is strict about what is stored

    def __init__(
        self,
        backbone: PTDiT,
        codec: LatentCodec,
        text_encoders: Mapping[str, TextEncoder | LaterEncoder],
        tasks: Mapping[str, Task[Any]],
        adapters: Mapping[str, ConditioningAdapter],
        losses: Mapping[str, Loss],
        *,
        diffusion: DiffusionConfig,
        optimizer: OptimizerConfig,
        max_steps: int,
        seed: int,
        alignment: Alignment | None = None,
        calls: Calls | None = None,
        cache: Cache | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.codec = backbone, Codec(codec)
        loaded = {name: e for name, e in text_encoders.items() if isinstance(e, nn.Module)}
        trained = {n: e for n, e in loaded.items() if any(p.requires_grad for p in e.parameters())}
        self.text_encoders = nn.ModuleDict(trained)
        others = {name: e for name, e in text_encoders.items() if name not in trained}
        self.frozen_encoders: dict[str, Frozen[TextEncoder]] = {
            name: Frozen(e) if isinstance(e, nn.Module) else e for name, e in others.items()
        }
        self.encoder_names, self.cache = list(text_encoders), cache
        self.tokenizer = Tokenizer(loaded, calls := calls or Calls(), None if cache is None else cache.text)
        self.adapters = nn.ModuleDict(adapters)
        self.losses = nn.ModuleDict({name: TaskLoss(loss) for name, loss in losses.items()})
        self.alignment = alignment
        self.tasks, self.calls = dict(tasks), calls
        self.path = make_path(diffusion)
        self.diffusion, self.optimizer_config = diffusion, optimizer
        mark_tables(self)
        self.max_steps, self.seed = max_steps, seed
        self.base: Base | None = None
        """What of the tree of modules is referenced and not stored, as a LoRA is trained on it; None: there is none."""
        self.gradient_parts: tuple[str, ...] = ()
        """Names of the parts of the network whose gradients are measured."""
        self.gate: StepGate | None = None
        """Decides whether an optimizer step is taken; None: all are."""
        self.gradient_squares: Tensor | None = None
        """(parts,) squared norm of each part's gradient in the last optimizer step, before clipping."""
        self._seen: set[str] = set()
        """Tasks of which a first batch was looked at."""

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        given, batch, loss = batch, self.encode(batch), self.loss_of(batch.task)
        assert batch.latents is not None  # x₀ (B, C, F', H', W')
        draws = self.draw(batch.keys, batch.latents)  # t, noise ε, and which conditions are dropped
        conditioning = self.condition(batch, draws.dropped)
        noised = self.path.corrupt(batch.latents, draws.noise, draws.t)  # x_t = (1 - t)·x₀ + t·ε
        aligned = self.alignment if self.alignment is not None and self.alignment.due(given) else None
        capture = loss.capture if aligned is None else loss.capture | {aligned.block}
        output, hidden = self.predict(noised.latents, noised.t, conditioning, capture=capture)
        velocity = self.path.velocity(output, noised.latents, noised.t)  # ε - x₀
        with self.calls(f"tasks.{batch.task}", "loss", batch, self._code_of_loss(batch.task)):
            losses, terms = loss(velocity, noised, batch, hidden)  # (B,)
        if batch.task not in self._seen and not isinstance(losses, FakeTensor):
            self._check_first(given, losses, velocity)
        total = losses.mean()
        if aligned is not None and given.pixels is not None:
            terms = {**terms, "repa": aligned(hidden[aligned.block], given.pixels, self.token_grid(batch.latents))}
            total = total + terms["repa"].mean()
        return {
            **{"loss": total, "losses": losses.detach(), "t": draws.t},
            **{"terms": {name: term.detach() for name, term in terms.items()}, "tokens": self.tokens(batch.latents)},
        }

    def _check_first(self, batch: Batch, losses: Tensor, velocity: Tensor) -> None:
        """What is looked at in a task's first batch, its pixels included, alone."""
        task = self.tasks[batch.task]
        with self.calls(f"tasks.{batch.task}", "loss", batch, self._code_of_loss(batch.task)):
            check_losses(losses, velocity)
        if batch.latents is None and batch.pixels is not None:
            with self.calls("codec", "encode", batch, self.codec.part.encode):
                check_codec(self.codec, batch.pixels[:1], task.separate_frames)
        self._seen.add(batch.task)

    def _code_of_loss(self, task: str) -> list[Any]:
        return [self.loss_of(task).loss, type(self.tasks[task]).loss]

    def loss_of(self, task: str) -> TaskLoss:
        """The loss of a task."""
        loss = self.losses[task]
        assert isinstance(loss, TaskLoss)
        return loss

    def tokens(self, latents: Tensor) -> int:
        """Tokens that the backbone sees of latents (B, C, F, H, W): B·N."""
        return len(latents) * math.prod(self.token_grid(latents))

    def token_grid(self, latents: Tensor) -> tuple[int, int, int]:
        """(f, h, w) of latents (B, C, F, H, W)."""
        frames, height, width = latents.shape[2:]
        return frames, height // self.backbone.config.patch_size, width // self.backbone.config.patch_size

    def encode(self, batch: Batch) -> Batch:
        """The batch with latents in the place of its pixels, and of those controls that its task names; what is there
        already stays as it is. The only place where pixels are read."""
        task, cache = self.tasks[batch.task], self.cache
        controls, encoded = dict(batch.controls), dict(batch.encoded_controls)
        rounding = cache.config.dtype if cache is not None and cache.latents else None
        fill = partial(self.codec.fill, rows=batch.unencoded, separate=task.separate_frames, rounding=rounding)
        with self.calls("codec", "encode", batch, self.codec.part.encode):
            latents = fill(batch.latents, batch.pixels)
            for name in task.encoded_controls:
                if name not in controls and name not in encoded:
                    raise ValueError(f'there is no control "{name}" with the samples, which the task wants encoded')
                found = fill(encoded.get(name), controls.pop(name, None))
                assert found is not None
                encoded[name] = found
        if cache is not None and rounding is not None and batch.pixels is not None and batch.keys:
            cache.missed["latents"] += len(batch.pixels)
        batch = replace(batch, pixels=None, unencoded=None, latents=latents)
        return replace(batch, controls=controls, encoded_controls=encoded)

    def decode(self, latents: Tensor, task: str, preview: bool = False) -> Tensor:
        """Latents (B, C, F', H', W') of a task as pixels (B, 3, F, H, W) float32; `preview`: more cheaply if it can."""
        part = self.codec.part
        with self.calls("codec", "preview" if preview else "decode", code=part.preview if preview else part.decode):
            return self.codec.decode(latents, self.tasks[task].separate_frames, preview)

    def latent_shape(self, bucket: Bucket, task: str) -> LatentShape:
        """Of the latents of a sample of this shape; UserError if it does not divide into latents and tokens."""
        shape, P = self.codec.latent_shape(bucket, self.tasks[task].separate_frames), self.backbone.config.patch_size
        if shape.height % P or shape.width % P:
            multiple = P * self.codec.part.spatial_factor
            raise UserError(f"{bucket.height}×{bucket.width} pixels are not both multiples of {multiple}")
        return shape

    def prepare(self, batch: Batch) -> None:
        """Makes the tables that the network caches for a batch of this shape."""
        with torch.no_grad(), outline_mode(self.backbone) or nullcontext():
            one = self.encode(batch.select([0]))
            assert one.latents is not None
            conditioning, _ = self.conditionings(one, LatentShape(*one.latents.shape[1:]))
        latents = torch.zeros(one.latents.shape, device=one.latents.device)  # a cache must not keep what has no content
        self.backbone.prepare(latents, conditioning.frame_axis)

    def draw(self, keys: Sequence[SampleKey], latents: Tensor) -> Draws:
        """Time, noise and condition dropout of each sample, from its key alone, whatever the device."""
        return draw(keys, latents, self.seed, self.diffusion, self.path, self.shift(latents.shape[1:]))

    def shift(self, latent_shape: Sequence[int], own: float | Literal["auto"] | None = None) -> float:
        """The timestep shift of samples whose latents are (C, F, H, W): that of training unless `own` is set."""
        wanted = self.diffusion.timesteps.shift if own is None else own
        tokens = math.prod(latent_shape[1:]) // self.backbone.config.patch_size**2
        return automatic_shift(tokens) if wanted == "auto" else wanted

    def condition(self, batch: Batch, dropped: Tensor) -> Conditioning:
        """The conditioning of an encoded batch, the unconditional one where `dropped` (B,) is true."""
        assert batch.latents is not None
        conditioning, null = self.conditionings(batch, LatentShape(*batch.latents.shape[1:]))
        with self.calls(f"tasks.{batch.task}", "adapter.null", batch):
            return conditioning.where(dropped, null)

    def conditionings(self, batch: Batch, latent_shape: LatentShape) -> tuple[Conditioning, Conditioning]:
        """The conditioning of an encoded batch, and the unconditional one."""
        adapter: Any = self.adapters[batch.task]
        task = f"tasks.{batch.task}"
        text = self.encode_text(batch if batch.text or batch.encoded_text else self.with_text(batch))
        with self.calls(task, "adapter.forward", batch, adapter.forward):
            conditioning = adapter(batch, text, latent_shape)
            check_conditioning(conditioning, adapter.dims, len(batch), latent_shape)
        with self.calls(task, "adapter.null", batch, adapter.null):
            null = adapter.null(conditioning)
        if null is None:
            with self.calls(task, "adapter.forward", batch, adapter.forward):
                null = adapter(batch, self._empty_text(text), latent_shape)
        with self.calls(task, "adapter.null", batch, [adapter.null, adapter.forward]):
            check_null(null, conditioning)
        return conditioning, null

    def with_text(self, batch: Batch, short: bool = False) -> Batch:
        """The batch with its captions as the text encoders read them, or as tokens from the cache."""
        device, own = next(self.backbone.parameters()).device, self.tokenizer.put(batch.without_tensors(), short)
        text = {name: inputs.to(device) for name, inputs in own.text.items()}
        encoded = {name: tokens.to(device) for name, tokens in own.encoded_text.items()}
        return replace(batch, text=text, encoded_text=encoded)

    def encode_text(self, batch: Batch) -> dict[str, TextTokens]:
        """What each text encoder makes of the captions of a batch, in the order of the recipe."""
        found = {}
        for name in self.encoder_names:
            if name in batch.encoded_text:
                found[name] = batch.encoded_text[name].to(torch.float32)
                continue
            with self.calls(f"text_encoders.{name}", "forward"):
                if name in self.text_encoders:
                    found[name] = self.text_encoders[name](batch.text[name])
                else:
                    found[name] = self.encode_frozen(name, batch)
        return found

    @torch.no_grad()
    def encode_frozen(self, name: str, batch: Batch) -> TextTokens:
        """What a frozen encoder makes of the captions of a batch."""
        device = next(self.backbone.parameters()).device
        tokens = encode_texts(self.frozen_encoders[name], batch, name, device, self.calls)
        if self.cache is not None and self.cache.text is not None:
            self.cache.missed[name] += len(self.cache.text.missing(name, batch.captions))
            return self.cache.text.rounded(tokens)
        return tokens

    def _empty_text(self, like: Mapping[str, TextTokens]) -> dict[str, TextTokens]:
        """The empty prompt, as often and as long as the texts of a batch."""
        with _disable_current_modes():  # numbers have content in an estimate, too
            batch = self.with_text(Batch("", ("",)), short=True)
        empty = self.encode_text(batch)
        return {name: empty[name].expand(*text.tokens.shape[:2]) for name, text in like.items()}

    def velocity(
        self, latents: Tensor, t: Tensor, conditioning: Conditioning, cache: ConditioningCache | None = None
    ) -> Tensor:
        """The velocity ε - x₀ (B, C, F, H, W) that a sampler follows from `latents` (alike) at `t` (B,) > 0.

        `cache` is for the steps of a sampler, which have the same conditioning.
        """
        return self.path.exact.velocity(self.predict(latents, t, conditioning, cache)[0], latents, t)

    def predict(
        self,
        latents: Tensor,
        t: Tensor,
        conditioning: Conditioning,
        cache: ConditioningCache | None = None,
        capture: Collection[int] = (),
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """What the network says of x_t, `latents` (B, C, F, H, W), at `t` (B,): alike, and what `diffusion.prediction`
        names; and the tokens (B, N, D) after the blocks in `capture`."""
        found = self.backbone(*self.path.network_inputs(latents, t), conditioning, cache, capture)
        output, hidden = found if capture else (found, {})
        return output[:, : latents.shape[1]].float(), hidden

    def encoders(self) -> dict[str, Any]:
        """All text encoders that are loaded, those that train and those that do not, by name."""
        frozen = {name: encoder.part for name, encoder in self.frozen_encoders.items() if encoder.loaded}
        return {**self.text_encoders, **frozen}

    def referenced(self) -> dict[str, Frozen[Any]]:
        """The parts outside of the tree, by their path in the recipe."""
        return {"codec": self.codec, **{f"text_encoders.{name}": e for name, e in self.frozen_encoders.items()}}

    def records(self) -> dict[str, dict[str, str]]:
        """Origin and hash of all that is referenced: parts outside of the tree, and the base of a LoRA by its roots."""
        parts = {path: part.record() for path, part in self.referenced().items()}
        return parts if self.base is None else {**parts, **self.base.records}

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the optimizer and the average cover."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)

    def stored(self) -> dict[str, Tensor]:
        """What checkpoints hold: all parameters and persistent buffers in the tree but those of the base of a LoRA."""
        found = self.state_dict(keep_vars=True)
        return found if self.base is None else {n: t for n, t in found.items() if n not in self.base.frozen}

    def network(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by the names that they have without a LoRA, whose own are left out."""
        found = self.state_dict(keep_vars=True)
        return found if self.base is None else {name: found[now] for name, now in self.base.names.items()}

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
        if self.base is not None:
            saved = checkpoint["state_dict"]
            checkpoint["state_dict"] = {n: t for n, t in saved.items() if n not in self.base.frozen}
        checkpoint["referenced"] = self.records()
        if self.alignment is not None:
            checkpoint["alignment"] = {"diffusion.repa": self.alignment.encoder.record()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_shapes({name: tensor.shape for name, tensor in self.stored().items()}, checkpoint["state_dict"])
        check_records(checkpoint.get("referenced"), self.records(), "the checkpoint")
        if self.alignment is not None:  # its encoder is none of `referenced`: samples do without it
            check_records(
                checkpoint.get("alignment"), {"diffusion.repa": self.alignment.encoder.record()}, "the checkpoint"
            )
