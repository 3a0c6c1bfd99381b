"""What a recipe may say. The line under a field is its meaning, with the unit; `t2x` shows it to users."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from t2x_core.errors import UserError
from t2x_core.recipe.backbone_config import BackboneConfig
from t2x_core.recipe.cache_config import CacheConfig
from t2x_core.recipe.components import (
    Beta,
    CodecConfig,
    Count,
    CountOrZero,
    Fraction,
    Positive,
    TaskConfig,
    TextEncoderConfig,
)
from t2x_core.recipe.constraints import FROM_CURRENT_FOLDER, Range
from t2x_core.recipe.repa_config import RepaConfig
from t2x_core.recipe.trainer_config import TrainerConfig


@dataclass(frozen=True, kw_only=True)
class TimestepConfig:
    """How the times of training samples are drawn; t in [0, 1], 1 is pure noise."""

    distribution: Literal["logit-normal", "uniform"] = "logit-normal"
    """`logit-normal`: the logit of t is Gaussian, most samples are half noised; `uniform`: t is uniform, as in DDPM."""
    mean: float = 0.0
    """Mean of the Gaussian, in logits; above 0 gives more noise (logit-normal only)."""
    std: Positive = 1.0
    """Standard deviation of the Gaussian, in logits (logit-normal only)."""
    shift: Positive | Literal["auto"] = 1.0
    """s in t → s·t / (1 + (s − 1)·t); above 1 gives more noise, as large samples need; `auto`: by their tokens."""
    pure_noise: Fraction = 0.0
    """Share of samples trained at t = 1 exactly, where the condition alone says anything about the sample."""


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How samples are made, in training and by `t2x sample`."""

    name: Literal["euler", "heun", "dpmpp-2m", "unipc"] = "euler"
    """Solver: `euler`; of second order: `dpmpp-2m`, `unipc`, and `heun`, which costs two passes a step."""
    steps: Count = 30
    """Solver steps from noise to sample."""
    guidance: Annotated[float, Range(min=0)] = 4.0
    """Scale of classifier-free guidance; 1 is none, 0 ignores the condition."""
    guidance_interval: tuple[Fraction, Fraction] = (0.0, 1.0)
    """Times t, from and to, at which there is guidance; outside there is none, which saves half of the work."""
    guidance_rescale: Fraction = 0.0
    """How far the guided velocity is scaled back to the standard deviation of the conditional one; against glare."""
    shift: Positive | Literal["auto"] | None = None
    """Timestep shift of the solver's grid, as diffusion.timesteps.shift; `null`: the same as in training."""


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """The path from noise to data, and how it is trained and followed."""

    path: Literal["rectified-flow", "vp"] = "rectified-flow"
    """How a sample and noise are mixed: `rectified-flow` is the straight line, `vp` keeps the variance (DDPM)."""
    schedule: Literal["cosine", "scaled-linear"] = "cosine"
    """Noise over time: `cosine` as in improved DDPM, `scaled-linear` as in Stable Diffusion (vp only)."""
    prediction: Literal["velocity", "clean", "epsilon"] = "velocity"
    """What the network's output means: velocity, `clean` sample or noise (`epsilon`); losses see the velocity of it."""
    timesteps: TimestepConfig = field(default_factory=TimestepConfig)
    """Times of the training samples."""
    condition_dropout: Fraction = 0.1
    """Probability that a training sample is trained without its condition; guidance needs it."""
    repa: RepaConfig | None = None
    """Alignment of hidden tokens to a pretrained image encoder, which speeds training up; `null`: none."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """How samples are made."""

    def __post_init__(self) -> None:
        if self.prediction != "epsilon":
            return
        if self.path != "vp":
            problem = "rectified flow begins at pure noise, of which epsilon says nothing about the sample"
            raise UserError(problem, key="prediction", hint="set it to velocity or clean, or diffusion.path to vp")
        if self.timesteps.pure_noise:
            problem = "at pure noise, prediction epsilon says nothing about the sample"
            raise UserError(problem, key="timesteps.pure_noise", hint="set it to 0, or prediction to velocity or clean")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer and its schedule."""

    name: Literal["adamw", "muon", "lion"] = "adamw"
    """`adamw`; `muon`: orthogonalised momentum for matrices of the blocks, AdamW for the rest; `lion`: signs only."""
    lr: Positive = 1e-4
    """Peak learning rate, per optimizer step. `muon` takes steps of the size of AdamW; `lion` needs a smaller one."""
    lr_scale: dict[str, Positive] = field(default_factory=dict)
    """Factors of the learning rate by name of parameters, such as "text_encoders.*": 0.1; the first that fits."""
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    """Decay, per step, of the running mean of the gradient and of its square."""
    momentum: Beta = 0.95
    """Decay, per step, of the running mean of the gradient (muon only)."""
    eps: Positive = 1e-8
    """Added to the root of the mean square, in units of the gradient."""
    weight_decay: Annotated[float, Range(min=0)] = 0.01
    """Decoupled weight decay, as a factor of the learning rate."""
    warmup_steps: CountOrZero = 100
    """Optimizer steps over which the learning rate rises linearly."""
    schedule: Literal["constant", "cosine", "wsd"] = "cosine"
    """Course of the learning rate after the warm-up, until trainer.max_steps; `wsd`: constant, then a linear fall."""
    decay_share: Annotated[float, Range(above=0, max=1)] = 0.2
    """Share of trainer.max_steps over which the learning rate falls at the end (wsd only)."""
    final_lr_ratio: Fraction = 0.0
    """Learning rate at the end of cosine and wsd, as a fraction of lr."""
    clip_norm: Positive | None = 1.0
    """Largest norm of the whole gradient; a longer one is scaled down; `null`: no clipping."""
    freeze: list[str] = field(default_factory=list)
    """Name patterns of parameters that are not trained, such as "text_encoders.*"; saved, not averaged."""


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Protection against bad gradients: their step is skipped, and reported."""

    spike: Annotated[float, Range(above=1)] | None = 10.0
    """Norm, in running means of its task, above which a gradient is a spike; `null`: only NaN and infinity count."""
    grace: CountOrZero = 100
    """Steps of a task before its spikes count, while norms still fall fast."""
    max_skips: Count = 10
    """Skipped steps in a row that make training go back, once, to a checkpoint from before them."""


@dataclass(frozen=True, kw_only=True)
class EMAConfig:
    """Moving average of the trained weights, which validation and sampling use."""

    decay: Beta = 0.999
    """Share of the average that stays at each optimizer step."""
    warmup: bool = True
    """Whether the decay of update n is at most (1 + n) / (10 + n), so that the first weights are soon forgotten."""


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """How often a run logs, validates, samples and saves."""

    log_every: Count = 20
    """Optimizer steps between two points in TensorBoard."""
    validate_every: Count = 500
    """Optimizer steps between two validations on the fixed validation set."""
    sample_every: CountOrZero = 500
    """Optimizer steps between two grids of samples; `0`: only at the end."""
    samples: Count = 16
    """Images in a grid."""
    score_samples: CountOrZero = 64
    """Images that the task scores at each sampling; `0`: no score."""
    final_score_samples: CountOrZero = 256
    """Images that the task scores at the end; `0`: no score."""
    prompts: list[str] | dict[str, list[str]] = field(default_factory=list)
    """Prompts of your own that are sampled as often as the grid: a list for all tasks, or task name → a list."""
    checkpoint_every: Count = 500
    """Optimizer steps between two checkpoints."""
    checkpoint_minutes: Positive | None = 30.0
    """Minutes after which a checkpoint is written even if not so many steps have been done; `null`: never."""
    keep_checkpoints: Count = 2
    """Checkpoints that are kept, the newest ones; the best one is kept besides."""
    profile: bool = False
    """Whether torch's profiler records a few early steps, into the folder profile/ of the run."""
    runs_dir: Annotated[Path, FROM_CURRENT_FOLDER] = Path("runs")
    """Folder in which each run makes its own, relative to the current folder (not to the recipe)."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a run depends on."""

    seed: CountOrZero = 0
    """Start of all randomness."""
    deterministic: bool = False
    """Whether CUDA kernels that could give other last digits on a second run are refused; slower."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """Arithmetic of float32 matrix products on a GPU: `highest` is float32, `high` TF32, `medium` bfloat16."""
    tasks: dict[str, TaskConfig]
    """Tasks to train: name → its block; at least one."""
    backbone: BackboneConfig
    """The network."""
    codec: CodecConfig
    """Pixels to latents and back."""
    text_encoders: dict[str, TextEncoderConfig] = field(default_factory=dict)
    """Captions to text tokens: name → its block, whose `name` says which one it is, if not that; all tasks see all."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    """Latents and text tokens that are encoded once."""
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    """Noise, timesteps and sampler."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimizer and learning rate."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """Steps that are skipped."""
    ema: EMAConfig = field(default_factory=EMAConfig)
    """Moving average of the weights."""
    trainer: TrainerConfig
    """Length, batch and hardware."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Logging, samples and checkpoints."""

    def __post_init__(self) -> None:
        if self.optimizer.name == "muon" and self.trainer.strategy in ("fsdp2", "hsdp"):
            raise UserError(
                f"muon needs whole matrices, which {self.trainer.strategy} cuts up",
                key="optimizer.name",
                hint="adamw and lion go with it, or set trainer.strategy to ddp",
            )
        if self.backbone.lora is not None and self.backbone.lora.dora and self.trainer.compile:
            hint = "leave one of them out"
            raise UserError("dora does not go with trainer.compile", key="backbone.lora.dora", hint=hint)
        if self.diffusion.repa is not None and self.cache.folder is not None and self.cache.latents:
            problem = "alignment looks at pixels, which are not read where latents are cached"
            raise UserError(problem, key="diffusion.repa", hint="set cache.latents to false, or diffusion.repa to null")
        self.prompts("")
        if self.trainer.devices != "auto":
            self.check_task_batches(self.trainer.devices)

    def prompts(self, task: str) -> list[str]:
        """Prompts of the user's own that are sampled of a task while training; UserError if they name no task."""
        found = self.logging.prompts
        if isinstance(found, list):
            return found
        for name in found:
            if name not in self.tasks:
                known = ", ".join(self.tasks)
                raise UserError(f'there is no task "{name}"', key=f"logging.prompts.{name}", hint=f"tasks: {known}")
        return found.get(task, [])

    def check_task_batches(self, devices: int) -> None:
        """UserError if a task's own batch does not divide by so many devices a node."""
        for name, task in self.tasks.items():
            if task.global_batch is not None:
                self.trainer.check_parts(task.global_batch, devices, f"tasks.{name}.global_batch")
