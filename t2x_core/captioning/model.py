"""A model of transformers that says what is on an image."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from t2x_core.data.content import content_hash
from t2x_core.encoders.weights_config import WeightsConfig
from t2x_core.errors import UserError

PROMPT = "Describe this image in one sentence."
"""What a model that is talked to is asked."""


class Captioner:
    """Captions images, always the same for the same: the likeliest token each time.

    Args:
        prompt: what it is asked, or what the caption begins with, as the model has it; None: `PROMPT` for one with a
            chat template, and nothing for others.
        max_tokens: of a caption, at most.

    Attributes:
        name: where the weights come from, and which they are: the hub's commit, or a hash of the files.

    Raises UserError if it cannot be had. Only safetensors are read, and none of the folder's code.
    """

    def __init__(self, weights: WeightsConfig, prompt: str | None, max_tokens: int, device: str, dtype: str) -> None:
        folder = weights.fetch()
        self.name, self.max_tokens = _name(weights, folder), max_tokens
        self.processor, self.model = _load(folder, dtype)
        try:
            self.model.to(device).eval()
        except (RuntimeError, AssertionError) as error:  # no such device, or one with too little memory
            raise UserError(f"the model cannot be put on {device}: {str(error).splitlines()[0]}") from error
        self.chat = bool(getattr(self.processor, "chat_template", None))
        self.prompt = prompt if prompt is not None else PROMPT if self.chat else ""
        if not self.model.config.is_encoder_decoder and (tokenizer := getattr(self.processor, "tokenizer", None)):
            tokenizer.padding_side = "left"  # captions go on where prompts end
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.eos_token

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """A caption for each image, without line breaks; "" if it has nothing to say."""
        inputs = self._inputs(images).to(self.model.device, self.model.dtype)
        tokens = self.model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=self.max_tokens)
        asked = inputs.get("input_ids")
        if asked is not None and torch.equal(tokens[:, : asked.shape[1]], asked):  # the question stands in front
            tokens = tokens[:, asked.shape[1] :]
        return [" ".join(text.split()) for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]

    def _inputs(self, images: Sequence[Image.Image]) -> Any:
        if not self.chat:
            texts = {"text": [self.prompt] * len(images), "padding": True} if self.prompt else {}
            try:
                return self.processor(images=list(images), return_tensors="pt", **texts)
            except (ValueError, TypeError) as error:
                raise UserError(f"{self.name} does not take this prompt: {error}", hint="set --prompt") from error
        talks = [
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": self.prompt}]}]
            for image in images
        ]
        return self.processor.apply_chat_template(
            talks,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )


def _name(weights: WeightsConfig, folder: Path) -> str:
    if weights.hub is not None:  # snapshots lie in folders that are called by their commits
        return f"{weights.hub}@{folder.name}"
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".safetensors"):
            digest.update(f"{file.name} {content_hash(file)}".encode())
    return f"{folder.resolve().name}@{digest.hexdigest()}"


def _load(folder: Path, dtype: str) -> tuple[Any, Any]:
    try:
        import transformers
    except ImportError as error:
        raise UserError("captioning needs transformers", hint="pip install 't2x[pretrained]'") from error
    transformers.utils.logging.disable_progress_bar()
    own: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = transformers.AutoProcessor.from_pretrained(str(folder), **own)
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            str(folder), dtype=getattr(torch, dtype), use_safetensors=True, **own
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder} holds no model that captions images: {first}") from error
    return processor, model
