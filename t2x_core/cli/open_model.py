"""The model that RUN names, ready to sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from t2x_core.cli.lora_option import parse_loras
from t2x_core.cli.sample_arguments import Model

if TYPE_CHECKING:
    from t2x_core.generation import T2XPipeline


def open_model(
    model: Model,
    checkpoint: str,
    device: str | None,
    threads: int | None,
    loras: Sequence[str] = (),
    offload: bool = False,
) -> T2XPipeline:
    """Its pipeline, with its LoRAs; CPU threads as asked for, or as its recipe says."""
    import torch

    from t2x_core.generation import T2XPipeline

    if model.folder is None:
        pipeline = T2XPipeline.from_recipe(model.recipe, device=device, offload=offload)
    else:
        pipeline = T2XPipeline.from_pretrained(model.folder, checkpoint, device, offload)
    for lora, weight in parse_loras(loras):
        pipeline.load_lora(lora, weight)
    if threads := threads or pipeline.assembly.recipe.trainer.threads:
        torch.set_num_threads(threads)
    return pipeline
