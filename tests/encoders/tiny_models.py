"""Tiny random models of the real classes, saved by their own libraries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

WORDS = [
    "a",
    "the",
    "large",
    "small",
    "red",
    "green",
    "blue",
    "circle",
    "square",
    "on",
    "left",
    "right",
    "of",
    "above",
    "below",
    ",",
    ".",
    "photo",
    "caption",
    ":",
]


def _diffusers(name: str, **options: Any) -> Callable[[], Any]:
    def build() -> Any:
        import diffusers

        return getattr(diffusers, name)(**options)

    return build


_IMAGE = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "latent_channels": 4,
}
_VIDEO = {"block_out_channels": (8,) * 4, "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 4}
_LTX = {"block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4, "latent_channels": 8}

VAES: dict[str, Callable[[], Any]] = {
    "AutoencoderKL": _diffusers("AutoencoderKL", **_IMAGE, scaling_factor=0.3, shift_factor=0.1),
    "AutoencoderKL, mean and deviation": _diffusers(
        "AutoencoderKL",
        **_IMAGE,
        scaling_factor=0.5,
        latents_mean=[0.1, 0.2, -0.1, 0.3],
        latents_std=[2.0, 1.0, 0.5, 3.0],
    ),
    "AutoencoderKLFlux2": _diffusers("AutoencoderKLFlux2", **_IMAGE),
    "AutoencoderTiny": _diffusers(
        "AutoencoderTiny",
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ),
    "AutoencoderDC": _diffusers(
        "AutoencoderDC",
        latent_channels=4,
        encoder_block_out_channels=(8, 16),
        decoder_block_out_channels=(8, 16),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        decoder_act_fns="silu",
        decoder_norm_types="rms_norm",
        scaling_factor=0.4,
    ),
    "AutoencoderKLCogVideoX": _diffusers(
        "AutoencoderKLCogVideoX",
        **_VIDEO,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
    ),
    "AutoencoderKLWan": _diffusers("AutoencoderKLWan", base_dim=3, z_dim=16, dim_mult=[1] * 4, num_res_blocks=1),
    "AutoencoderKLHunyuanVideo": _diffusers("AutoencoderKLHunyuanVideo", **_VIDEO),
    "AutoencoderKLLTXVideo": _diffusers(
        "AutoencoderKLLTXVideo", **_LTX, layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5
    ),
    "AutoencoderKLMagvit": _diffusers("AutoencoderKLMagvit", **_VIDEO),
}
"""Name → a tiny VAE with random weights."""


def save_vae(folder: Path, name: str = "AutoencoderKL", seed: int = 0) -> Path:
    """A tiny VAE in a folder, as `save_pretrained` of diffusers writes it."""
    torch.manual_seed(seed)
    vae = VAES[name]()
    if name == "AutoencoderKLFlux2":  # a trained one has statistics
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2)
    if name == "AutoencoderKLLTXVideo":
        vae.latents_mean.normal_()
        vae.latents_std.uniform_(0.5, 2)
    vae.save_pretrained(folder)
    return folder


def _tokenizer(kind: str, chat: bool = False) -> Any:
    """A word-level tokenizer with the special tokens that models of this kind use."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    if kind == "language":
        return _byte_tokenizer(chat)
    special = {"t5": ["<pad>", "</s>", "<unk>"], "clip": ["<pad>", "<s>", "</s>", "<unk>"]}
    special["bert"] = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    names = special[kind]
    vocabulary = {word: i for i, word in enumerate([*names, *WORDS])}
    own = Tokenizer(models.WordLevel(vocabulary, unk_token=names[-1]))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    around = {"t5": "$A </s>", "clip": "<s> $A </s>", "bert": "[CLS] $A [SEP]"}.get(kind)
    if around:
        used = [(name, vocabulary[name]) for name in around.split() if name != "$A"]
        own.post_processor = processors.TemplateProcessing(single=around, special_tokens=used)
    return PreTrainedTokenizerFast(tokenizer_object=own, unk_token=names[-1], pad_token=names[0], model_max_length=512)


def _byte_tokenizer(chat: bool) -> Any:
    """The tokenizer of Qwen, with one token a byte; like the real one, it makes no token of ""."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    letters = sorted(ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(vocab={letter: i for i, letter in enumerate([*letters, "<|endoftext|>"])}, merges=[])
    tokenizer.pad_token = None
    if chat:
        tokenizer.chat_template = "{% for m in messages %}caption : {{ m['content'] }} .{% endfor %}"
    return tokenizer


def save_text_encoder(folder: Path, name: str = "t5", seed: int = 0, chat: bool = False) -> Path:
    """A tiny text encoder and its tokenizer in a folder, as `save_pretrained` of transformers writes them."""
    import transformers as hf

    torch.manual_seed(seed)
    size = 300
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    t5 = {"vocab_size": size, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 2, "pad_token_id": 0}
    model: Any
    if name == "t5":
        model = hf.T5EncoderModel(hf.T5Config(**t5, feed_forward_proj="gated-gelu"))
    elif name == "umt5":
        model = hf.UMT5EncoderModel(hf.UMT5Config(**t5))
    elif name == "clip":
        ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        model = hf.CLIPTextModel(hf.CLIPTextConfig(vocab_size=size, max_position_embeddings=77, **small, **ids))
    elif name == "bert":
        model = hf.BertModel(hf.BertConfig(vocab_size=size, **small))
    else:
        model = hf.Qwen2Model(hf.Qwen2Config(vocab_size=size, num_key_value_heads=1, **small))
    model.save_pretrained(folder)
    _tokenizer({"umt5": "t5", "qwen2": "language"}.get(name, name), chat).save_pretrained(folder)
    return folder
