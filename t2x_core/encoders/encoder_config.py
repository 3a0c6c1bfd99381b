"""Settings of the codecs and text encoders that come with t2x."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from t2x_core.encoders.vae_classes import VAE_CLASSES, VAEClass
from t2x_core.encoders.weights_config import WeightsConfig
from t2x_core.errors import UserError
from t2x_core.recipe import CodecConfig, Range, TextEncoderConfig


@dataclass(frozen=True, kw_only=True)
class IdentityConfig(CodecConfig):
    """The identity codec has no settings."""

    name: str = "identity"
    """Name of the codec."""

    @property
    def spatial_factor(self) -> int:
        return 1


@dataclass(frozen=True, kw_only=True)
class ByteWordsConfig(TextEncoderConfig):
    """Settings of the byte-level text encoder."""

    name: str = "bytes"
    """Name of the text encoder."""
    dim: Annotated[int, Range(min=8)] = 128
    """Width of a token (a multiple of `heads`)."""
    depth: Annotated[int, Range(min=0)] = 2
    """Transformer layers over the words."""
    heads: Annotated[int, Range(min=1)] = 4
    """Attention heads."""
    max_words: Annotated[int, Range(min=1)] = 24
    """Words that are read, a start token not counted; further ones are ignored."""
    word_bytes: Annotated[int, Range(min=1)] = 12
    """UTF-8 bytes that one token reads; a longer word becomes several tokens."""

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise UserError(f"{self.dim} is no multiple of the {self.heads} heads", key="dim")


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(CodecConfig):
    """Settings of a pretrained VAE of diffusers."""

    name: str = "autoencoder"
    """Name of the codec."""
    weights: WeightsConfig
    """Where the VAE is; its config.json says of which class it is."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the VAE's weights and arithmetic; some VAEs overflow in float16."""
    chunk: Annotated[int, Range(min=1)] = 8
    """Images (clips, for a VAE of videos) coded at once; fewer need less memory."""
    tiling: bool = False
    """Whether large images are coded in overlapping tiles, which needs less memory and changes pixels slightly."""
    slicing: bool = False
    """Whether the VAE codes one image at a time by its own means."""
    preview: WeightsConfig | None = None
    """A small VAE of the same latents, as `{hub: madebyollin/taesd}` is for that of Stable Diffusion, which decodes the
    images while training in place of the large one; not those at the end."""

    def __post_init__(self) -> None:
        self.vae_class()
        if self.preview is not None:
            small = self.small()
            for what in ("spatial_factor", "frame_factor"):
                one, other = getattr(self, what), getattr(small, what)
                if None not in (one, other) and one != other:
                    said = f"{self.preview} has another {what} ({other}) than {self.weights} ({one})"
                    raise UserError(said, key="preview", hint="name a small VAE of the same latents, or null")

    def small(self) -> AutoencoderConfig:
        """Settings of the VAE that `preview` names."""
        assert self.preview is not None
        try:
            return AutoencoderConfig(weights=self.preview, dtype=self.dtype, chunk=self.chunk)
        except UserError as error:
            error.key = (error.key or "").replace("weights", "preview", 1) or "preview"
            raise

    def weight_files(self) -> Sequence[Path] | None:
        return self.weights.files()

    def neutral_keys(self) -> Collection[str]:
        return "weights", "chunk", "preview"

    def vae_class(self) -> VAEClass | None:
        """Which class of diffusers it is; None if its config is on a hub and was not fetched yet.

        Raises:
            UserError: the config names no class, or one that cannot be a codec.
        """
        options = self._options()
        if options is None:
            return None
        name = options.get("_class_name")
        if name not in VAE_CLASSES:
            known = ", ".join(VAE_CLASSES)
            raise UserError(
                f"{self.weights} is of class {name}, which cannot be a codec", key="weights", hint=f"known: {known}"
            )
        return VAE_CLASSES[name]

    @property
    def spatial_factor(self) -> int | None:
        kind, options = self.vae_class(), self._options()
        return None if kind is None or options is None else kind.spatial_factor(options)

    @property
    def frame_factor(self) -> int | None:
        kind, options = self.vae_class(), self._options()
        return None if kind is None or options is None else kind.frame_factor(options)

    def at_hand(self) -> bool:
        return self.weights.at_hand() and (self.preview is None or self.preview.at_hand())

    def _options(self) -> dict[str, object] | None:
        with error_key("weights"):
            return self.weights.config()


@dataclass(frozen=True, kw_only=True)
class TransformersConfig(TextEncoderConfig):
    """Settings of a pretrained text encoder of transformers; it stays frozen."""

    name: str = "transformers"
    """Name of the text encoder."""
    weights: WeightsConfig
    """Where the model and its tokenizer are: a T5 encoder, a CLIP text model, BERT, or a language model."""
    dtype: Literal["float32", "bfloat16", "float16", "int8"] = "float32"
    """Precision of its weights and arithmetic; T5 overflows in float16. `int8`: weights of linear layers in 8 bits, by
    torchao, arithmetic in bfloat16."""
    device: str | None = None
    """Where it works: `cpu`, `cuda:1` …; `null`: on the device that trains."""
    max_tokens: Annotated[int, Range(min=2)] = 120
    """Tokens of a caption that are read, special ones included; further ones are cut. CLIP knows 77."""
    layer: int = -1
    """Which hidden states are the tokens: -1 = the last, with its final norm; -2 = the last but one; 0 = embeddings."""
    pooled: Literal["auto", "mean", "none"] = "auto"
    """One vector for the whole caption. `auto`: CLIP's own, none for others; `mean`: over the valid tokens."""
    template: str = "{}"
    """Text around the caption, which stands for `{}`: an instruction for a language model, say."""
    chat: bool = False
    """Whether the text is put into the tokenizer's own chat template, as a message of the user."""
    skip_tokens: Annotated[int, Range(min=0)] = 0
    """Tokens at the start that are left out of the result: those of a template's beginning."""

    def __post_init__(self) -> None:
        if self.template.count("{}") != 1:
            raise UserError(f"{self.template!r} must hold {{}} once, for the caption", key="template")
        if self.device is not None and not re.fullmatch(r"cpu|mps|(cuda|xpu)(:\d+)?", self.device):
            raise UserError(f"{self.device!r} is no device", key="device", hint="write cpu or cuda:1, say")
        if self.skip_tokens >= self.max_tokens:
            raise UserError(f"{self.skip_tokens} of {self.max_tokens} tokens leave none", key="skip_tokens")
        with error_key("weights"):
            self.weights.config()

    def weight_files(self) -> Sequence[Path] | None:
        return self.weights.files()

    def neutral_keys(self) -> Collection[str]:
        return "weights", "device"

    def at_hand(self) -> bool:
        return self.weights.at_hand()


@contextmanager
def error_key(block: str) -> Iterator[None]:
    """A UserError of a block in a block names its key from the outer one."""
    try:
        yield
    except UserError as error:
        error.key = f"{block}.{error.key}" if error.key else block
        raise
