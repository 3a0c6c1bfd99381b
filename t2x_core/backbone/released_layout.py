"""The tensors of the authors' released network, by their own names, as parameters of ours; none is read here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

Shape = tuple[int, ...]

POSITIONS = "pos_embed.pos_embed"
"""The table of positions, (1, f, h·w, D): kept beside the weights, and not learnt."""


@dataclass(frozen=True)
class ReleasedParameter:
    """A parameter of ours that one or several released tensors make."""

    shape: Shape
    parts: tuple[str, ...]
    """Released names, joined along their rows."""
    head: tuple[int, int, int] | None = None
    """Of the rows of the head: latent channels C, channels that come out, and how many of these are wanted, the first
    ones. The released network predicts x₀ − ε in the first C, and ours ε − x₀: their rows are negated."""

    def make(self, tensors: Sequence[Tensor]) -> Tensor:
        """From the tensors of `parts`; shares memory with them where nothing is changed."""
        joined = tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
        if self.head is not None:
            latent, out, wanted = self.head
            rows = joined.unflatten(0, (-1, out))[:, :wanted].clone()  # (P·P, wanted, …)
            rows[:, :latent].neg_()
            joined = rows.flatten(0, 1)
        return joined.reshape(self.shape)


def is_released(names: Iterable[str]) -> bool:
    """Whether these are names of the release: with "model." in front or without."""
    return any(re.fullmatch(r"(model\.)?transformer_blocks\.0\.proxy_scale_shift_table", name) for name in names)


def released_parameters(shapes: Mapping[str, Sequence[int]], out_channels: int = 0) -> dict[str, ReleasedParameter]:
    """Own name → what makes it, of those parameters whose released tensors are all there.

    Args:
        shapes: released name (without "model.") → shape.
        out_channels: of the head that is wanted; 0: as many as come out.
    """
    depth = 1 + max((int(name.split(".")[1]) for name in shapes if name.startswith("transformer_blocks.")), default=-1)
    width, channels, patch, _ = shapes["pos_embed.proj.weight"]
    out = shapes["proj_out.bias"][0] // patch**2
    wanted = min(out_channels or out, out)
    found = {}
    for name, parts in sources(depth).items():
        if any(part not in shapes for part in parts):
            continue
        shape = (sum(shapes[part][0] for part in parts), *shapes[parts[0]][1:])
        head = None
        if name == "patch_embedding.weight":
            shape = (width, prod(shape[1:]))
        if name.startswith("head.linear"):
            head, shape = (channels, out, wanted), (patch**2 * wanted, *shape[1:])
        found[name] = ReleasedParameter(shape, tuple(parts), head)
    return found


def sources(depth: int) -> dict[str, list[str]]:
    """Each parameter of ours, and the released tensors that make it when they are joined along their rows."""
    tables = {"head.table": "scale_shift_table"}
    layers = {
        "patch_embedding": ["pos_embed.proj"],
        "time_embedding.mlp.0": ["adaln_single.emb.timestep_embedder.linear_1"],
        "time_embedding.mlp.2": ["adaln_single.emb.timestep_embedder.linear_2"],
        "time_modulation": ["adaln_single.linear"],
        "text_projection.0": ["caption_projection.linear_1"],
        "text_projection.2": ["caption_projection.linear_2"],
        "head.linear": ["proj_out"],
    }
    for index in range(depth):
        a, b = f"blocks.{index}", f"transformer_blocks.{index}"
        tables[f"{a}.table"] = f"{b}.scale_shift_table"
        tables[f"{a}.shifted_table"] = f"{b}.proxy_scale_shift_table"
        layers[f"{a}.visual_linear0"] = [f"{b}.linear_1_visual"]
        layers[f"{a}.shifted_linear0"] = [f"{b}.linear_2"]
        layers[f"{a}.mlp.0"] = [f"{b}.ff.net.0.proj"]
        layers[f"{a}.mlp.2"] = [f"{b}.ff.net.2"]
        for mine, theirs in (("proxy", "proxy_attn1"), ("window", "attn1"), ("shifted", "attn3")):
            layers[f"{a}.{mine}_attention.qkv"] = [f"{b}.{theirs}.to_{part}" for part in "qkv"]
            layers[f"{a}.{mine}_attention.out"] = [f"{b}.{theirs}.to_out.0"]
        for mine, theirs in (("visual", "pvisual_attn2"), ("text", "attn2")):
            layers[f"{a}.{mine}_attention.q"] = [f"{b}.{theirs}.to_q"]
            layers[f"{a}.{mine}_attention.kv"] = [f"{b}.{theirs}.to_{part}" for part in "kv"]
            layers[f"{a}.{mine}_attention.out"] = [f"{b}.{theirs}.to_out.0"]
    return {name: [source] for name, source in tables.items()} | {
        f"{name}.{kind}": [f"{part}.{kind}" for part in parts]
        for name, parts in layers.items()
        for kind in ("weight", "bias")
    }
