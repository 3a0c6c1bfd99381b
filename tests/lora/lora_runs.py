"""LoRAs of tiny networks, for the tests beside."""

from __future__ import annotations

from pathlib import Path

import torch

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.backbone import PTDiT, PTDiTConfig
from t2x_core.checkpoint import checkpoints_of, read_checkpoint
from t2x_core.generation import T2XPipeline
from t2x_core.recipe import to_plain
from t2x_core.training import fit, run_folder
from t2x_core.types import Conditioning, ConditioningDims
from tests.conftest import TINY

RANK = "backbone.lora.rank=4"
FAST = "optimizer.lr=0.05"
KINDS = {
    "lora": (RANK, "backbone.lora.alpha=12"),
    "rslora": (RANK, "backbone.lora.alpha=12", "backbone.lora.rslora=true"),
    "dora": (RANK, "backbone.lora.dora=true"),
    "lokr": ("backbone.lora.kind=lokr", "backbone.lora.rank=2", "backbone.lora.alpha=6"),
}
PROMPT = "a large red circle on the left"
DIMS = ConditioningDims(text=16)


def trained(folder: Path, *settings: str) -> Path:
    assembly = load_assembly("quickstart", [*TINY, "optimizer.lr=0.003", "ema.decay=0", *settings])
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "recipe.yaml").exists():
        run_folder.write_run(folder, to_plain(assembly.recipe))
    module = build_module(assembly)
    fit(assembly, module, build_data(assembly, module), folder, resume=True)
    return folder


def pixels(pipeline: T2XPipeline) -> torch.Tensor:
    return pipeline(PROMPT, seeds=3).pixels


def last(run: Path) -> dict:
    return read_checkpoint(checkpoints_of(run)[-1])


def network(**more: object) -> PTDiT:
    torch.manual_seed(0)
    model = PTDiT(PTDiTConfig(in_channels=3, width=32, depth=2, heads=2, attention="fused", dims=DIMS, **more))
    torch.nn.init.normal_(model.head.linear.weight, std=0.1)
    return model.eval()


def output(model: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(2, 3, 16, generator=generator)
    given = Conditioning(text=text, text_mask=torch.ones(2, 3, dtype=torch.bool))
    with torch.no_grad():
        return model(torch.randn(2, 3, 1, 8, 8, generator=generator), torch.tensor([0.3, 0.8]), given)
