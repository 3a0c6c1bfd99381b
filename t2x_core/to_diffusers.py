"""A trained text-to-image model → a folder that `PTDiTPipeline` of diffusers opens."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from t2x_core.assembly import Assembly, sample_bucket
from t2x_core.conditioning import TextConditioning
from t2x_core.encoders.autoencoder import Autoencoder
from t2x_core.encoders.transformers_text import TransformersText
from t2x_core.errors import UserError
from t2x_core.export import CARD, forget_places, whole_folder
from t2x_core.module import T2XModule

USE = """
# {name}

A text-to-image PT-DiT ([arXiv 2409.04005](https://arxiv.org/abs/2409.04005)) that was trained with t2x, as a pipeline
of diffusers.

```python
import torch
from t2x_core.diffusers_pipeline import PTDiTPipeline  # from t2x, which has the network

pipe = PTDiTPipeline.from_pretrained("{name}")
image = pipe("what you want to see", generator=torch.Generator().manual_seed(1)).images[0]
```

VAE and text encoder are copies; their own licences hold for them.
"""


def export_diffusers(
    assembly: Assembly, module: T2XModule, folder: Path, *, license: str | None = None, name: str | None = None
) -> None:
    """Writes the folder, with copies of VAE, text encoder and tokenizer.

    Raises:
        UserError: the model has what the pipeline has not; it is named.
        OSError: it cannot be written; then the folder is as it was before.
    """
    from huggingface_hub import ModelCard, ModelCardData

    pipeline = diffusers_pipeline(assembly, module)
    data = ModelCardData(
        license=license, library_name="diffusers", pipeline_tag="text-to-image", tags=["t2x", "pt-dit"]
    )
    with whole_folder(folder) as beside:
        pipeline.save_pretrained(beside)
        forget_places(beside)
        text = USE.format(name=name or folder.resolve().name)
        ModelCard(f"---\n{data.to_yaml()}\n---\n{text}").save(beside / CARD)


def diffusers_pipeline(assembly: Assembly, module: T2XModule) -> Any:
    """The model as a `PTDiTPipeline`, which shares its weights; UserError if it has what the pipeline has not."""
    task, adapter, encoder, codec = _parts(assembly, module)
    from diffusers import FlowMatchEulerDiscreteScheduler

    from t2x_core.diffusers_pipeline import PTDiTPipeline, PTDiTTransformer

    learned = adapter.no_caption is not None
    transformer = PTDiTTransformer(
        json.loads(json.dumps(asdict(module.backbone.config))),
        prediction=assembly.recipe.diffusion.prediction,
        vector=adapter.pooled,
        learned_null=learned,
    )
    transformer.backbone = module.backbone
    if learned:
        with torch.no_grad():
            transformer.null_token.copy_(adapter.no_caption)
            if adapter.pooled:
                none: Any = adapter.no_caption if adapter.no_vector is None else adapter.no_vector
                transformer.null_vector.copy_(none[: len(transformer.null_vector)])
    bucket, config = sample_bucket(assembly, module, task), assembly.recipe.diffusion
    return PTDiTPipeline(
        transformer.eval(),
        codec.vae,
        encoder.model,
        encoder.tokenizer,
        FlowMatchEulerDiscreteScheduler(shift=module.shift(module.latent_shape(bucket, task), config.sampler.shift)),
        sample_size=(bucket.height, bucket.width),
        max_tokens=encoder.config.max_tokens,
        template=encoder.config.template,
    )


def _parts(assembly: Assembly, module: T2XModule) -> tuple[str, TextConditioning, TransformersText, Autoencoder]:
    """The only task and its adapter, the only text encoder, the codec; UserError if the pipeline cannot have them."""
    recipe, problem = assembly.recipe, None
    name = next(iter(recipe.tasks))
    adapter: Any = module.adapters[name]
    codec, encoders = module.codec.part, list(module.frozen_encoders.values())
    encoder: Any = encoders[0].part if len(encoders) == 1 else None
    if len(recipe.tasks) > 1 or not isinstance(adapter, TextConditioning) or adapter.controls:
        problem = "a task other than text to image"
    elif recipe.diffusion.path != "rectified-flow" or recipe.diffusion.prediction == "epsilon":
        problem = f"diffusion.path {recipe.diffusion.path} with {recipe.diffusion.prediction}"
    elif not isinstance(codec, Autoencoder) or codec.kind.name != "AutoencoderKL" or "latents_mean" in _set(codec.vae):
        problem = f"the codec {recipe.codec.name}, and not an AutoencoderKL with a scaling factor"
    elif len(recipe.text_encoders) != 1 or not isinstance(encoder, TransformersText):
        problem = "another text encoder than one frozen of transformers"
    elif encoder.pooling == "own" or encoder.config.layer != -1 or encoder.config.chat or encoder.config.skip_tokens:
        problem = "a text encoder with its own pooled vector, layer, chat or skip_tokens"
    if problem:
        raise UserError(f"the pipeline of diffusers does not have what this model has: {problem}")
    return name, adapter, encoder, codec  # type: ignore[return-value]


def _set(vae: Any) -> list[str]:
    """Keys of a VAE's configuration that have a value."""
    return [key for key, value in vae.config.items() if value is not None]
