"""Tiny random models that caption images, of real classes, saved with their processors by transformers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.encoders.tiny_models import WORDS

SIDE, PATCH = 32, 8
TEMPLATE = (
    "{% for m in messages %}user : {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}assistant : {% endif %}"
)
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def _tokenizer(special: list[str], around: str | None = None) -> Any:
    """A word is a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate([*special, *WORDS, "user", "assistant"])}
    own = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    if around:
        used = [(name, vocabulary[name]) for name in around.split() if name != "$A"]
        own.post_processor = processors.TemplateProcessing(single=around, special_tokens=used)
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    extra = [name for name in special if name not in names.values()]
    return PreTrainedTokenizerFast(
        tokenizer_object=own,
        **names,
        additional_special_tokens=extra,
        model_input_names=["input_ids", "attention_mask"],
    )


def save_blip(folder: Path, seed: int = 0) -> Path:
    """A model that begins with the prompt, if there is one, and goes on."""
    import transformers as hf

    torch.manual_seed(seed)
    tokenizer = _tokenizer(["[PAD]", "[CLS]", "[SEP]", "[UNK]"], "[CLS] $A [SEP]")
    text = {
        "vocab_size": len(tokenizer),
        "encoder_hidden_size": 16,
        "max_position_embeddings": 64,
        "projection_dim": 16,
    }
    ids = {"bos_token_id": 1, "pad_token_id": 0, "eos_token_id": 2, "sep_token_id": 2}
    vision = {**SMALL, "image_size": SIDE, "patch_size": PATCH, "projection_dim": 16}
    config = hf.BlipConfig(text_config={**SMALL, **text, **ids}, vision_config=vision, projection_dim=16)
    model = hf.BlipForConditionalGeneration(config)
    return _save(
        folder, model, hf.BlipProcessor(hf.BlipImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer)
    )


def save_llava(folder: Path, seed: int = 0) -> Path:
    """A language model with a chat template, which is shown images as tokens."""
    import transformers as hf

    torch.manual_seed(seed)
    tokenizer = _tokenizer(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "<image>"])
    text = hf.LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2, **SMALL
    )
    vision = hf.CLIPVisionConfig(image_size=SIDE, patch_size=PATCH, projection_dim=16, **SMALL)
    config = hf.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=4, image_seq_length=16, vision_feature_layer=-1
    )
    model = hf.LlavaForConditionalGeneration(config)
    images = hf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor = hf.LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    return _save(folder, model, processor)


def _save(folder: Path, model: Any, processor: Any) -> Path:
    for parameter in model.parameters():
        if parameter.dim() > 1:  # so large that what it says depends on the image, and rounding decides nothing
            torch.nn.init.normal_(parameter, std=1.0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


CAPTIONERS = {"blip": save_blip, "llava": save_llava}
