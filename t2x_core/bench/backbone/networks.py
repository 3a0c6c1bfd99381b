"""The networks that are measured, and what goes into them: one signature for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from t2x_core.backbone import ConditioningCache, PTDiT, PTDiTConfig, fold_released
from t2x_core.backbone.training_blocks import set_blocks
from t2x_core.bench.backbone.options import Grid, Options
from t2x_core.errors import UserError
from t2x_core.types import Conditioning, ConditioningDims

CHANNELS, PATCH, TEXT_WIDTH = 4, 2, 4096
"""Channels of the latents; latent pixels along a token; channels of a text token, those of T5-XXL."""


@dataclass(frozen=True)
class Inputs:
    """What all networks of a cell are given; random, the same each time."""

    latents: Tensor
    """(B, C, F, H, W)."""
    t: Tensor
    """(B,)."""
    conditioning: Conditioning
    """Text (B, T, Dt) and its mask, with no token masked."""
    gradient: Tensor
    """(B, C, F, H, W), of the output: where the backward pass begins."""

    @classmethod
    def make(cls, options: Options, grid: Grid, device: torch.device) -> Inputs:
        """For a grid of tokens; floats in the precision of the weights."""
        f, h, w = grid
        B, T = options.batch, options.text
        dtype = weight_dtype(options)
        random = torch.Generator("cpu").manual_seed(0)

        def normal(*shape: int) -> Tensor:
            if device.type == "meta":
                return torch.empty(shape, device=device, dtype=dtype)
            return torch.randn(shape, generator=random).to(device, dtype)

        shape = (B, CHANNELS, f, PATCH * h, PATCH * w)
        mask = torch.ones(B, T, dtype=torch.bool, device=device)
        cond = Conditioning(text=normal(B, T, TEXT_WIDTH), text_mask=mask) if T else Conditioning()
        return cls(normal(*shape), torch.linspace(0.1, 0.9, B, device=device), cond, normal(*shape))


def weight_dtype(options: Options) -> torch.dtype:
    """bfloat16 with bf16-true, else float32."""
    return torch.bfloat16 if options.precision == "bf16-true" else torch.float32


class Network(ABC):
    """A model and how it is called."""

    blocks_name: ClassVar[str]
    """The attribute of the model that holds its blocks."""
    keeps: ClassVar[bool] = False
    """Whether the first call keeps something for those that follow."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @abstractmethod
    def __call__(self, inputs: Inputs) -> Tensor:
        """The output, of as many elements as the latents."""

    @property
    def blocks(self) -> nn.ModuleList:
        blocks = getattr(self.model, self.blocks_name)
        assert isinstance(blocks, nn.ModuleList)
        return blocks

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def fresh(self) -> Self:
        """The same model with nothing kept."""
        return type(self)(self.model)

    def twice(self) -> Self:
        """The same weights, each block once more behind the last one: the difference is what the blocks cost."""
        model = self._sharing()
        setattr(model, self.blocks_name, nn.ModuleList([*getattr(model, self.blocks_name)] * 2))
        return type(self)(model)

    def compiled(self, backward: bool) -> Self:
        """The same weights with compiled blocks."""
        model = self._sharing()
        if backward and isinstance(model, PTDiT):
            set_blocks(model, shapes=1)  # as training does
        else:
            blocks = getattr(model, self.blocks_name)
            compiled = torch.compile(type(blocks[0]).forward, dynamic=False)
            for block in blocks:
                block.forward = partial(compiled, block)
        return type(self)(model)

    def _sharing(self) -> nn.Module:
        """A copy of the model that has the same parameters."""
        return deepcopy(self.model, {id(p): p for p in [*self.model.parameters(), *self.model.buffers()]})


class OwnNetwork(Network):
    """proxy, fused, dense and released."""

    blocks_name = "blocks"

    def __call__(self, inputs: Inputs) -> Tensor:
        return self.model(inputs.latents, inputs.t, inputs.conditioning)


class FoldedNetwork(OwnNetwork):
    """What depends on the text alone is computed in the first call only, as over the steps of a sampler."""

    keeps = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.cache = ConditioningCache()

    def __call__(self, inputs: Inputs) -> Tensor:
        return self.model(inputs.latents, inputs.t, inputs.conditioning, self.cache)


class PixArtNetwork(Network):
    """PixArt-α (Chen et al. 2023, arXiv 2310.00426) as diffusers has it."""

    blocks_name = "transformer_blocks"

    def __call__(self, inputs: Inputs) -> Tensor:
        assert inputs.conditioning.text_mask is not None
        return self.model(
            hidden_states=inputs.latents.squeeze(2),
            encoder_hidden_states=inputs.conditioning.text,
            timestep=1000 * inputs.t,
            encoder_attention_mask=inputs.conditioning.text_mask.to(inputs.latents.dtype),
            return_dict=False,
        )[0]


def build(variant: str, options: Options, grid: Grid, device: torch.device) -> Network:
    """A network with random weights, none of them all zero: what begins at zero would let hardware draw less power."""
    torch.manual_seed(0)
    with torch.device(device):
        network = _pixart(options, grid) if variant == "pixart" else _own(variant, options)
    network.model.to(device, weight_dtype(options)).eval()
    return network


def _own(variant: str, options: Options) -> Network:
    attention = variant if variant in ("fused", "dense") else "proxy"
    config = PTDiTConfig(
        in_channels=CHANNELS,
        width=options.width,
        depth=options.depth,
        heads=options.heads,
        patch_size=PATCH,
        attention=attention,  # type: ignore[arg-type]
        dims=ConditioningDims(text=TEXT_WIDTH if options.text else 0),
        released=variant in ("released", "folded"),
    )
    model = PTDiT(config)
    _fill_zeros(model)
    return FoldedNetwork(fold_released(model)) if variant == "folded" else OwnNetwork(model)


def _pixart(options: Options, grid: Grid) -> Network:
    try:
        from diffusers import PixArtTransformer2DModel
        from diffusers.utils import logging
    except (ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"diffusers cannot be imported: {reason}", hint="leave pixart out of --variants") from error
    logging.set_verbosity_error()  # it warns of each cast, even where nothing has to stay as it is
    model = PixArtTransformer2DModel(
        num_attention_heads=options.heads,
        attention_head_dim=options.width // options.heads,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=options.depth,
        cross_attention_dim=options.width,
        sample_size=PATCH * grid[1],  # of this size the table of positions is made
        patch_size=PATCH,
        use_additional_conditions=False,
        caption_channels=TEXT_WIDTH,
    )
    _fill_zeros(model)
    return PixArtNetwork(model)


@torch.no_grad()
def _fill_zeros(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.is_meta and not parameter.any():
            parameter.normal_(std=0.02)
