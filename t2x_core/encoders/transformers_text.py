"""Pretrained text encoders of transformers: T5, CLIP, BERT, and language models by their hidden states. Frozen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2x_core.encoders.encoder_config import TransformersConfig, error_key
from t2x_core.errors import UserError
from t2x_core.interfaces import Component, TextEncoder
from t2x_core.plugins import hookimpl
from t2x_core.types import TextDims, TextInput, TextTokens

ENCODER_CLASSES = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
}
"""model_type of config.json → the class that holds the text encoder alone; others are opened by `AutoModel`."""


class TransformersText(TextEncoder):
    """A text encoder of transformers. Tokens are hidden states; special tokens count as tokens.

    `outline`: without weights (on the meta device) and tokenizer; every text is as long as texts can be.
    """

    def __init__(self, config: TransformersConfig, *, outline: bool = False) -> None:
        super().__init__()
        self.config, self.origin, self.runs_on = config, str(config.weights), config.device or ""
        with error_key("weights"):
            folder = None if outline else config.weights.fetch()
        self.model, self.tokenizer = _outline(config) if folder is None else _load(folder, config)
        options = self.model.config
        options = getattr(options, "text_config", None) or options
        clip = options.model_type.startswith("clip")
        width = int(options.hidden_size)
        self.pooling = "own" if config.pooled == "auto" and clip else "mean" if config.pooled == "mean" else "none"
        self.dims = TextDims(width, 0 if self.pooling == "none" else width)
        longest = getattr(options, "max_position_embeddings", None)
        if longest is not None and config.max_tokens > longest:
            raise UserError(f"the model reads {longest} tokens, not {config.max_tokens}", key="max_tokens")
        layers = int(options.num_hidden_layers)
        if not -layers - 1 <= config.layer <= layers:
            raise UserError(f"the model has {layers} layers, so {config.layer} is none of them", key="layer")
        self.longest, self.longest_setting = None if outline else config.max_tokens, "max_tokens"
        self.settings = "" if outline else _settings(self.model.config, self.tokenizer)
        self.requires_grad_(False)

    def length(self, text: str) -> int:
        return len(self.tokenizer(self._filled(text), add_special_tokens=not self.config.chat)["input_ids"])

    def tokenize(self, texts: Sequence[str]) -> TextInput:
        config = self.config
        if self.tokenizer is None:
            ids = torch.zeros(len(texts), config.max_tokens, dtype=torch.long)
            return TextInput(ids, torch.ones_like(ids, dtype=torch.bool))
        found = self.tokenizer(
            [self._filled(text) for text in texts],
            add_special_tokens=not config.chat,
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=config.max_tokens,
            return_tensors="pt",
        )
        ids, mask = found["input_ids"].long(), found["attention_mask"].bool()
        least = 1 + config.skip_tokens
        if ids.shape[1] < least:  # the tokenizer of a language model makes no token of ""
            ids = torch.nn.functional.pad(ids, (0, least - ids.shape[1]), value=self.tokenizer.pad_token_id)
            mask = torch.nn.functional.pad(mask, (0, least - mask.shape[1]))
        mask[:, :least] = True
        return TextInput(ids, mask)

    def _filled(self, text: str) -> str:
        """A caption in the template, and in the tokenizer's chat template."""
        text = self.config.template.replace("{}", text)
        if not self.config.chat:
            return text
        message = [{"role": "user", "content": text}]
        return str(self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))

    def forward(self, text: TextInput) -> TextTokens:
        layer, skip = self.config.layer, self.config.skip_tokens
        found = self.model(input_ids=text.ids, attention_mask=text.mask.long(), output_hidden_states=layer != -1)
        tokens = found.last_hidden_state if layer == -1 else found.hidden_states[layer]
        tokens, mask = tokens[:, skip:].float(), text.mask[:, skip:]
        return TextTokens(tokens, mask, self._pooled(found, tokens, mask))

    def _pooled(self, found: Any, tokens: Tensor, mask: Tensor) -> Tensor | None:
        if self.pooling == "own":
            return found.pooler_output.float()
        if self.pooling == "mean":
            valid = mask.unsqueeze(-1).float()
            return (tokens * valid).sum(1) / valid.sum(1)
        return None


def _settings(config: Any, tokenizer: Any) -> str:
    """What the model's output depends on besides its weights: its configuration, and how texts become numbers."""
    plain = {k: v for k, v in config.to_dict().items() if not k.startswith("_") and k != "transformers_version"}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = sorted(tokenizer.get_vocab().items()) if backend is None else backend.to_str()
    return json.dumps([plain, vocabulary, tokenizer.chat_template], sort_keys=True, default=str)


def _outline(config: TransformersConfig) -> tuple[Any, Any]:
    """A model of this configuration without weights, on the meta device."""
    options = dict(config.weights.config() or {})
    if "model_type" not in options:
        raise UserError(f"what kind of model {config.weights} is, is not known before it is fetched", key="weights")
    hf = _library()
    name = ENCODER_CLASSES.get(options["model_type"], "AutoModel")
    built = hf.AutoConfig.for_model(**options)
    with torch.device("meta"):
        model = hf.AutoModel.from_config(built) if name == "AutoModel" else getattr(hf, name)(built)
    return _in_precision(torch.nn.Module.to(model, _arithmetic(config)), config), None


def _arithmetic(config: TransformersConfig) -> torch.dtype:
    return torch.bfloat16 if config.dtype == "int8" else getattr(torch, config.dtype)


def _in_precision(model: Any, config: TransformersConfig) -> Any:
    """The model, its linear layers' weights in 8 bits if the recipe wants that: one scale for each output."""
    if config.dtype == "int8":
        try:
            from torchao.quantization import Int8WeightOnlyConfig, quantize_
        except ImportError as error:
            hint = "pip install 't2x[int8]', or write dtype: bfloat16"
            raise UserError("weights in 8 bits need torchao", key="dtype", hint=hint) from error
        quantize_(model, Int8WeightOnlyConfig())
    return model


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UserError("pretrained text encoders need transformers", hint="pip install 't2x[pretrained]'") from error
    transformers.utils.logging.disable_progress_bar()  # of reading a file; the hub's downloads keep theirs
    return transformers


def _load(folder: Path, config: TransformersConfig) -> tuple[Any, Any]:
    """The model and its tokenizer, from safetensors alone, without any code of the folder's."""
    transformers = _library()
    model_type = (config.weights.config() or {}).get("model_type")
    name = ENCODER_CLASSES.get(str(model_type), "AutoModel")
    transformers.utils.logging.disable_progress_bar()  # "Loading weights" for each part of a second
    tokenizer_folder = folder
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json", "spiece.model")):
        tokenizer_folder = folder.parent / folder.name.replace("text_encoder", "tokenizer")  # a whole pipeline's folder
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(tokenizer_folder), local_files_only=True, trust_remote_code=False
        )
        model = getattr(transformers, name).from_pretrained(
            str(folder),
            dtype=_arithmetic(config),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"the text encoder in {folder} cannot be loaded: {first}", key="weights") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if config.chat and not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer in {tokenizer_folder} has no chat template", key="chat", hint="write a template"
        )
    return _in_precision(model, config), tokenizer


@hookimpl
def t2x_register() -> Sequence[Component]:
    return [Component("transformers", TransformersConfig, TransformersText, partial(TransformersText, outline=True))]
