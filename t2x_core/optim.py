"""Optimizers, learning-rate schedules and clipping from a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from t2x_core.errors import UserError
from t2x_core.recipe import OptimizerConfig
from t2x_core.sharding import local

PATTERNS = 'write the beginning of a name and a star, such as "backbone.head.*", "adapters.*", "text_encoders.*"'
"""What to do about a pattern of names that fits nothing."""


def build_optimizer(named: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig) -> Optimizer:
    """The optimizer that the recipe names.

    AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101); Lion (Chen et al. 2023, arXiv 2302.06675); or Muon (Jordan et
    al. 2024), scaled to steps as large as AdamW's (Liu et al. 2025, arXiv 2502.16982), for the matrices of the blocks,
    and AdamW for the rest, with its `betas` and `eps`.

    Weight decay acts on matrices alone: parameters of two axes or more whose names end in "weight". So it leaves alone
    biases, norms, and tables that are parameters by themselves (adaLN tables, positions, null tokens); and what
    `mark_tables` has marked.

    Raises:
        UserError: a pattern of `lr_scale` fits no parameter.
    """
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    unused = set(config.lr_scale)
    for name, parameter in named:
        matrix = name.endswith("weight") and parameter.ndim > 1 and not getattr(parameter, MARK, False)
        pattern = next((pattern for pattern in config.lr_scale if fnmatchcase(name, pattern)), None)
        unused.discard(pattern or "")
        scale = 1.0 if pattern is None else config.lr_scale[pattern]
        groups.setdefault((matrix, matrix and ".blocks." in name, scale), []).append(parameter)
    if unused:
        raise UserError(f'optimizer.lr_scale: "{sorted(unused)[0]}" fits no parameter', hint=PATTERNS)
    built: list[dict[str, Any]] = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if matrix else 0.0,
            "lr": config.lr * scale,
            **(_muon_group(inner, config.eps) if config.name == "muon" else {}),
        }
        for (matrix, inner, scale), parameters in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]
    if config.name == "adamw":
        return AdamW(built, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
    from timm.optim import Lion, Muon  # costs a third of a second

    if config.name == "muon":
        # On a GPU its step counts live there too (`capturable`): `StepGate` puts them back without waiting for it.
        on_gpu = any(p.is_cuda for parameters in groups.values() for p in parameters)
        return Muon(built, lr=config.lr, betas=config.betas, momentum=config.momentum, nesterov=True, capturable=on_gpu)
    return Lion(built, lr=config.lr, betas=config.betas)


TABLES = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
"""Modules whose weights are tables or factors, not matrices, whatever their number of axes."""
MARK = "_no_weight_decay"
"""Attribute of a parameter that weight decay leaves alone, as other projects call it, too."""


def mark_tables(module: nn.Module) -> None:
    """Marks the weights of embeddings and norms, by the type of the module that owns them, for `build_optimizer`.

    Decay would shrink the rows of an embedding that a step does not read as it shrinks those that it does. An author
    marks a table of another type by the same attribute: `weight._no_weight_decay = True`.
    """
    for part in module.modules():
        if isinstance(part, TABLES):
            for parameter in part.parameters(recurse=False):
                setattr(parameter, MARK, True)


def _muon_group(inner: bool, eps: float) -> dict[str, Any]:
    """What timm's Muon reads of a group; with its Nesterov momentum "the rest" would be NAdamW."""
    return {"use_fallback": False, "use_muon": True} if inner else {"use_fallback": True, "nesterov": False, "eps": eps}


def freeze(named: Iterable[tuple[str, nn.Parameter]], patterns: Sequence[str]) -> frozenset[str]:
    """Takes `requires_grad` from those of the parameters whose name fits a pattern; returns their names.

    Raises:
        UserError: with the key `freeze`; a pattern fits none of them, or nothing is left to train.
    """
    named = list(named)
    frozen = set()
    for pattern in patterns:
        fits = {name for name, _ in named if fnmatchcase(name, pattern)}
        if not fits:
            raise UserError(f'"{pattern}" fits no parameter that trains', key="freeze", hint=PATTERNS)
        frozen |= fits
    if len(frozen) == len(named):
        raise UserError("nothing is left to train", key="freeze", hint="take a pattern out")
    for name, parameter in named:
        if name in frozen:
            parameter.requires_grad_(False)
    return frozenset(frozen)


def state_bytes(named: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig) -> int:
    """Memory of the optimizer's averages: two of the size of the weights for AdamW, one for Lion and Muon."""
    if config.name == "lion":
        return sum(p.nbytes for _, p in named)
    groups = build_optimizer(named, config).param_groups
    return sum(p.nbytes * (2 if group.get("use_fallback", True) else 1) for group in groups for p in group["params"])


def learning_rate_factor(step: int, config: OptimizerConfig, max_steps: int) -> float:
    """Share of the full learning rate at step `step` (from 0): linear warm-up, then the schedule."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "wsd":  # warm-up, stable, decay; a warm-up that ends late leaves less time for the fall
        fall = min(config.decay_share * max_steps, max(1, max_steps - config.warmup_steps))
        left = min(1.0, max(0, max_steps - step) / fall)
        return config.final_lr_ratio + (1 - config.final_lr_ratio) * left
    done = min(1.0, (step - config.warmup_steps) / max(1, max_steps - config.warmup_steps))
    return config.final_lr_ratio + (1 - config.final_lr_ratio) * (1 + math.cos(math.pi * done)) / 2


def build_schedule(optimizer: Optimizer, config: OptimizerConfig, max_steps: int) -> LambdaLR:
    """The learning rate by optimizer step."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, config, max_steps))


class GradientClipping:
    """Scales the whole gradient down to a norm of at most `limit` (None: leaves it), and measures it by part.

    One pass over the gradients serves both, and nothing waits for the device. Parts are named as in the code, blocks
    taken together: `backbone.mlp`, `backbone.head`, `adapters.<task>`, `text_encoders.<name>` …
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], limit: float | None) -> None:
        self.limit = float("inf") if limit is None else limit
        names, self.parameters = zip(*named, strict=True)
        places = [_part(name) for name in names]
        self.parts = tuple(dict.fromkeys(places))
        device = self.parameters[0].device
        self._index = torch.tensor([self.parts.index(place) for place in places], device=device)
        self._zero = torch.zeros((), device=device)

    @torch.no_grad()
    def __call__(self) -> Tensor:
        """Clips; returns the squared norm of each part's gradient before that, (parts,); 0 where there is none.

        Of sharded gradients each rank measures its rows; the sums go over the ranks that share a copy.
        """
        used = [p.grad for p in self.parameters if p.grad is not None]
        gradients = [local(gradient) for gradient in used]
        found = iter(torch._foreach_norm(gradients, dtype=torch.float32))
        norms = torch.stack([self._zero if p.grad is None else next(found) for p in self.parameters])
        squares = norms.new_zeros(len(self.parts)).index_add_(0, self._index, norms.square())
        total = torch.linalg.vector_norm(norms)
        if isinstance(used[0], DTensor):
            dist.all_reduce(squares, group=used[0].device_mesh.get_group("shard"))
            total = squares.sum().sqrt()
        torch._foreach_mul_(gradients, (self.limit / (total + 1e-6)).clamp(max=1.0))
        return squares


class StepGate:
    """Keeps a bad gradient from the weights: one that is not finite, or a spike. Nothing waits for the device.

    The step of a bad gradient leaves weights and optimizer state as they were, to the last bit: no update, no weight
    decay, no count. Fused AdamW sees to that itself, by its flag `found_inf`; what any other optimizer did is undone.
    The copies for this are made after the backward pass, when activations need no more memory.

    A spike is a norm above `spike` running means of the task's own norms, once the task has had `grace` good steps;
    tasks are kept apart because the size of their gradients differs. The mean is a plain one over the first
    `WINDOW` good steps, and then forgets at that rate.
    """

    WINDOW = 100

    def __init__(self, optimizer: Optimizer, tasks: Sequence[str], spike: float | None, grace: int) -> None:
        self.optimizer, self.tasks, self.spike, self.grace = optimizer, tuple(tasks), spike, grace
        self.task = self.tasks[0]
        """The task of the step that is under way."""
        device = optimizer.param_groups[0]["params"][0].device
        self.means, self.counts = torch.zeros(2, len(tasks), device=device)
        self.verdict = torch.zeros(3, device=device)
        """On the last gradient: 1.0 if it was bad, else 0.0; its norm; the running mean of the norms before it."""
        self._fused = bool(optimizer.defaults.get("fused"))
        self._before: dict[tuple[Tensor, str], Tensor] = {}
        if self._fused:  # a GradScaler then unscales gradients before they are measured, and leaves the flag to us
            optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        else:
            optimizer.register_step_post_hook(lambda *_: self._undo())

    @torch.no_grad()
    def __call__(self, squares: Tensor) -> None:
        """Judges a gradient by the squared norms of its parts, (parts,); between backward pass and optimizer step."""
        i = self.tasks.index(self.task)
        mean, count = self.means[i], self.counts[i]
        norm = squares.sum().sqrt()
        bad = ~norm.isfinite()
        if self.spike is not None:
            bad |= (count >= self.grace) & (norm > self.spike * mean)
        self.verdict = torch.stack([bad.to(norm), norm, mean])
        count.add_(~bad)
        mean.lerp_(torch.where(bad, mean, norm), 1 / count.clamp(1, self.WINDOW))
        if self._fused:
            self.optimizer.found_inf = self.verdict[0]  # type: ignore[attr-defined]
        else:
            self._before = {where: tensor.clone() for where, tensor in self._tensors()}

    def _tensors(self) -> Iterator[tuple[tuple[Tensor, str], Tensor]]:
        """All that a step changes: (parameter, name of its state or "") → tensor, of a sharded one this rank's part."""
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = {name: value for name, value in self.optimizer.state[p].items() if torch.is_tensor(value)}
                for name, tensor in {"": p.detach(), **state}.items():
                    yield (p, name), tensor.to_local() if isinstance(tensor, DTensor) else tensor

    @torch.no_grad()
    def _undo(self) -> None:
        """If the step was bad, weights and state as before it; state that it has made as it was made: zero."""
        bad = self.verdict[0] > 0
        for where, tensor in self._tensors():
            before = self._before.get(where)
            torch.where(bad, torch.zeros_like(tensor) if before is None else before, tensor, out=tensor)
        self._before = {}

    def state_dict(self) -> dict[str, tuple[float, float]]:
        """Task → (running mean, good steps), exactly. Waits for the device."""
        return dict(zip(self.tasks, zip(self.means.tolist(), self.counts.tolist(), strict=True), strict=True))

    def load_state_dict(self, state: Mapping[str, tuple[float, float]]) -> None:
        for i, task in enumerate(self.tasks):
            self.means[i], self.counts[i] = state[task]


def _part(name: str) -> str:
    """Of a parameter's name: "backbone.blocks.3.mlp.0.weight" → "backbone.mlp"."""
    root, *rest = (word for word in name.split(".") if not word.isdigit() and word != "blocks")
    return f"{root}.{rest[0]}"


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(trained, all) parameters of a module."""
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)
