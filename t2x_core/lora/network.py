"""A module with a LoRA in its backbone, as it is trained: layers of the library peft around those of the backbone.

base     the weights that the updates are for: frozen, in no checkpoint, known by origin and hash
updates  trained and stored, and so are the parameters that `train` names, and those of losses
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from t2x_core.backbone.banded import BandedLinear
from t2x_core.errors import UserError, did_you_mean
from t2x_core.frozen import tensor_hash
from t2x_core.lora.layers import MAGNITUDE, TENSORS, LayerUpdate, Lora, scale_of
from t2x_core.recipe import LoraConfig

HELPERS = ("losses.", "alignment.")
"""What helps to train and is not sampled with: it always trains."""
ADAPTER = "default"
"""What peft calls our updates."""


class Base:
    """What a LoRA is trained on: all of a module that neither is an update nor trains.

    Args:
        module: with the layers of peft in its backbone.
        config: of the LoRA.
        layers: names of the backbone's layers that have an update.
        left_out: layers that fit a pattern and can have none.
        names: name in the module's state without LoRA → its name now, of all but the updates.
        trained: those of them, as they are called now, that are no part of the base.
    """

    def __init__(
        self,
        config: LoraConfig,
        layers: Sequence[str],
        left_out: Sequence[str],
        names: Mapping[str, str],
        trained: frozenset[str],
    ) -> None:
        self.config, self.layers, self.left_out = config, tuple(layers), tuple(left_out)
        self.names = dict(names)
        self.frozen = frozenset(names.values()) - trained
        """Names in the module's state of what is not stored."""
        self.optional = frozenset(name for name, now in names.items() if now in trained)
        """Names that weights to start from may lack, since these train."""
        self.records: dict[str, dict[str, str]] = {}
        """Root ("backbone", "adapters" …) → origin and hash of what is frozen of it; empty until it is loaded."""

    def settle(self, module: nn.Module, origin: str) -> None:
        """The base has been loaded, from `origin`: notes its hashes, and begins what depends on it (DoRA)."""
        state = module.state_dict(keep_vars=True)
        found = {name: state[now] for name, now in self.names.items() if now in self.frozen}
        self.records = base_records(found, origin)
        if self.config.dora:
            for layer in self.layers:
                weight = state[f"backbone.{layer}.base_layer.weight"].detach()
                state[f"backbone.{layer}.{MAGNITUDE}.{ADAPTER}.weight"].data.copy_(torch.linalg.norm(weight, dim=1))

    def describe(self, module: nn.Module) -> Iterator[str]:
        """Lines for the log."""
        config, parameters = self.config, dict(module.named_parameters())
        updates = sum(p.numel() for name, p in parameters.items() if _layer_of(name) is not None)
        whole = sum(p.numel() for p in parameters.values()) - updates
        kind = {"lora": "LoRA", "lokr": "LoKr"}[config.kind] + " with DoRA" * config.dora
        yield (
            f"{'lora':11}{kind} of rank {config.rank} on {len(self.layers)} layers, "
            f"{updates / 1e6:.3g} M numbers ({updates / whole:.2%} of the network)"
        )
        if self.left_out:
            yield f"{'':11}left out, as tasks of several widths share them: {', '.join(self.left_out)}"


def base_records(tensors: Mapping[str, Tensor], origin: str) -> dict[str, dict[str, str]]:
    """Root ("backbone", "adapters" …) → origin and hash of those of the tensors of a base that are of it."""
    roots: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        roots.setdefault(name.partition(".")[0], {})[name] = tensor
    return {
        root: {"origin": origin, "sha256": tensor_hash(found)}
        for root, found in roots.items()
        if not f"{root}.".startswith(HELPERS)
    }


def inject(module: nn.Module, config: LoraConfig) -> Base:
    """Puts updates, which change nothing yet, into `module.backbone`, and freezes all the rest but losses and what
    `config.train` names.

    Raises:
        UserError: with the key `lora.…`; a pattern fits nothing, or the library peft is not installed.
    """
    backbone = module.get_submodule("backbone")
    layers, left_out = find_layers(backbone, config.targets)
    plain = list(module.state_dict(keep_vars=True))
    trained = _trained(module, config.train)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in trained)
    _inject(backbone, layers, config)
    state = module.state_dict()
    names = {}
    for name in plain:
        owner, _, last = name.rpartition(".")
        names[name] = name if name in state else f"{owner}.base_layer.{last}"
    return Base(config, layers, left_out, names, trained)


def _trained(module: nn.Module, patterns: Sequence[str]) -> frozenset[str]:
    names = [name for name, p in module.named_parameters() if p.requires_grad and not name.startswith("backbone.")]
    trained = {name for name in names if name.startswith(HELPERS)}
    for pattern in patterns:
        fits = {name for name in names if fnmatchcase(name, pattern)}
        if not fits:
            others = ", ".join(name for name in names[:4] if not name.startswith(HELPERS)) or "none"
            raise UserError(f'"{pattern}" fits no parameter that could train', key="lora.train", hint=f"such: {others}")
        trained |= fits
    return frozenset(trained)


def find_layers(backbone: nn.Module, patterns: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of the linear layers that fit a pattern; and of those that can have no update, as tasks of several widths
    share them (`BandedLinear`). UserError if a pattern fits none that can."""
    linear = {name: part for name, part in backbone.named_modules() if isinstance(part, nn.Linear)}
    banded = [name for name, part in linear.items() if isinstance(part, BandedLinear)]
    inside = tuple(f"{name}." for name in banded)
    able = [name for name, part in linear.items() if type(part) is nn.Linear and not name.startswith(inside or ("\0",))]
    chosen: set[str] = set()
    left_out: set[str] = set()
    for pattern in patterns:
        fits = {name for name in able if fnmatchcase(name, pattern)}
        others = {name for name in banded if fnmatchcase(name, pattern)}
        if not fits:
            if others:
                why = f'"{pattern}" fits {", ".join(sorted(others))} alone, which tasks of several widths share'
                raise UserError(why, key="lora.targets", hint="leave it out")
            hint = did_you_mean(pattern, able) or f"there are {', '.join(able[:3])} …"
            raise UserError(f'"{pattern}" fits no linear layer of the backbone', key="lora.targets", hint=hint)
        chosen |= fits
        left_out |= others
    return [name for name in able if name in chosen], sorted(left_out)


def peft() -> Any:
    """The library; UserError if it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise UserError("a LoRA trains with the package peft", key="lora", hint="pip install 't2x[lora]'") from error
    return peft


def _inject(backbone: nn.Module, layers: Sequence[str], config: LoraConfig) -> None:
    library = peft()
    alpha = config.alpha or config.rank
    if config.kind == "lokr":
        settings = library.LoKrConfig(r=config.rank, alpha=alpha, target_modules=list(layers))
    else:
        settings = library.LoraConfig(
            r=config.rank,
            lora_alpha=alpha,
            target_modules=list(layers),
            use_rslora=config.rslora,
            use_dora=config.dora,
        )
    library.inject_adapter_in_model(settings, backbone, ADAPTER)


def _layer_of(name: str) -> tuple[str, str] | None:
    """ "backbone.blocks.0.mlp.0.lora_A.default.weight" → ("blocks.0.mlp.0", "lora_A"); None: it is of no update."""
    head, found, _ = name.removeprefix("backbone.").partition(f".{ADAPTER}")
    layer, _, tensor = head.rpartition(".")
    return (layer, tensor) if found and tensor in TENSORS else None


def is_update(name: str) -> bool:
    """Whether a module's parameter of that name is of an update."""
    return _layer_of(name) is not None


def collect(weights: Mapping[str, Tensor], config: LoraConfig, record: Mapping[str, str]) -> Lora:
    """The LoRA in what a module stores, by name.

    Args:
        record: origin and hash of the backbone that it was trained on.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    whole = {}
    for name, tensor in weights.items():
        if (found := _layer_of(name)) is not None:
            layers.setdefault(found[0], {})[found[1]] = tensor
        elif not name.startswith(HELPERS):
            whole[name] = tensor
    alpha = config.alpha or float(config.rank)
    scale = scale_of(alpha, config.rank, config.rslora)
    return Lora(
        layers={name: LayerUpdate(tensors, scale) for name, tensors in layers.items()},
        kind=config.kind,
        rank=config.rank,
        alpha=alpha,
        rslora=config.rslora,
        dora=config.dora,
        whole=whole,
        base=record.get("sha256", ""),
        origin=record.get("origin", ""),
    )
