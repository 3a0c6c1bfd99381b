"""Optimizers, learning-rate schedules and clipping from a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from t2x_core.errors import UserError
from t2x_core.recipe import OptimizerConfig

PATTERNS = 'write the beginning of a name and a star, such as "backbone.head.*", "adapters.*", "text_encoder.*"'
"""What to do about a pattern of names that fits nothing."""


def build_optimizer(named: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig) -> Optimizer:
    """The optimizer that the recipe names.

    AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101); Lion (Chen et al. 2023, arXiv 2302.06675); or Muon (Jordan et
    al. 2024), scaled to steps as large as AdamW's (Liu et al. 2025, arXiv 2502.16982), for the matrices of the blocks,
    and AdamW for the rest.

    Weight decay acts on matrices alone: not on biases, norms, and tables, which are parameters that stand by themselves
    (adaLN tables, positions, null tokens), whose names do not end in "weight".

    Raises:
        UserError: a pattern of `lr_scale` fits no parameter.
    """
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    unused = set(config.lr_scale)
    for name, parameter in named:
        matrix = name.endswith("weight") and parameter.ndim > 1
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
            **({"use_fallback": not inner} if config.name == "muon" else {}),
        }
        for (matrix, inner, scale), parameters in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]
    if config.name == "adamw":
        return AdamW(built, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
    from timm.optim import Lion, Muon  # costs a third of a second

    if config.name == "muon":
        return Muon(built, lr=config.lr, betas=config.betas, momentum=config.momentum, nesterov=True)
    return Lion(built, lr=config.lr, betas=config.betas)


def freeze(named: Iterable[tuple[str, nn.Parameter]], patterns: Sequence[str]) -> None:
    """Takes `requires_grad` from those of the parameters whose name fits a pattern.

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
    if config.schedule == "wsd":  # warm-up, stable, decay
        left = min(1.0, max(0, max_steps - step) / (config.decay_share * max_steps))
        return config.final_lr_ratio + (1 - config.final_lr_ratio) * left
    done = min(1.0, (step - config.warmup_steps) / max(1, max_steps - config.warmup_steps))
    return config.final_lr_ratio + (1 - config.final_lr_ratio) * (1 + math.cos(math.pi * done)) / 2


def build_schedule(optimizer: Optimizer, config: OptimizerConfig, max_steps: int) -> LambdaLR:
    """The learning rate by optimizer step."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, config, max_steps))


class GradientClipping:
    """Scales the whole gradient down to a norm of at most `limit` (None: leaves it), and measures it by part.

    One pass over the gradients serves both, and nothing waits for the device. Parts are named as in the code, blocks
    taken together: `backbone.mlp`, `backbone.head`, `adapters.<task>`, `text_encoder` …
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
        """Clips; returns the squared norm of each part's gradient before that, (parts,); 0 where there is none."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        found = iter(torch._foreach_norm(gradients))
        norms = torch.stack([self._zero if p.grad is None else next(found) for p in self.parameters])
        nn.utils.clip_grads_with_norm_(self.parameters, self.limit, torch.linalg.vector_norm(norms))
        return norms.new_zeros(len(self.parts)).index_add_(0, self._index, norms.square())


def _part(name: str) -> str:
    """Of a parameter's name: "backbone.blocks.3.mlp.0.weight" → "backbone.mlp"."""
    root, *rest = (word for word in name.split(".") if not word.isdigit() and word != "blocks")
    return root if root == "text_encoder" else f"{root}.{rest[0]}"


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(trained, all) parameters of a module."""
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)
