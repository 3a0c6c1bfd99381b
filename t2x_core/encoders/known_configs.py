"""Configurations of pretrained models that recipes often name, so that a dry run knows shapes, memory and arithmetic
before anything is downloaded. Once config.json is on this machine, it alone counts. Without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _kl(**options: Any) -> dict[str, Any]:
    """The image VAE of Stable Diffusion and its kin (Rombach et al. 2022, arXiv 2112.10752): 8 × 8 pixels a cell."""
    return {
        "_class_name": "AutoencoderKL",
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": 32,
        **options,
    }


def _t5(width: int, hidden: int, heads: int, layers: int) -> dict[str, Any]:
    """T5 v1.1 (Raffel et al. 2020, arXiv 1910.10683; Shazeer 2020, arXiv 2002.05202)."""
    return {
        "model_type": "t5",
        "d_model": width,
        "d_ff": hidden,
        "d_kv": 64,
        "num_heads": heads,
        "num_layers": layers,
        "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }


_FLUX = {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159}
_FLUX |= {"use_quant_conv": False, "use_post_quant_conv": False}
_T5_XXL = _t5(4096, 10240, 64, 24)

KNOWN_CONFIGS: Mapping[tuple[str, str | None], Mapping[str, Any]] = {
    ("stabilityai/sd-vae-ft-mse", None): _kl(scaling_factor=0.18215),
    ("stabilityai/sd-vae-ft-ema", None): _kl(scaling_factor=0.18215),
    ("stabilityai/sdxl-vae", None): _kl(scaling_factor=0.13025),
    ("madebyollin/sdxl-vae-fp16-fix", None): _kl(scaling_factor=0.13025),
    ("black-forest-labs/FLUX.1-schnell", "vae"): _kl(**_FLUX),
    ("black-forest-labs/FLUX.1-dev", "vae"): _kl(**_FLUX),
    ("madebyollin/taesd", None): {"_class_name": "AutoencoderTiny", "encoder_block_out_channels": [64] * 4},
    ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "vae"): {"_class_name": "AutoencoderKLWan"},
    ("Wan-AI/Wan2.1-T2V-14B-Diffusers", "vae"): {"_class_name": "AutoencoderKLWan"},
    ("THUDM/CogVideoX-2b", "vae"): {
        "_class_name": "AutoencoderKLCogVideoX",
        "block_out_channels": [128, 256, 256, 512],
        "latent_channels": 16,
    },
    ("hunyuanvideo-community/HunyuanVideo", "vae"): {
        "_class_name": "AutoencoderKLHunyuanVideo",
        "latent_channels": 16,
    },
    ("google/t5-v1_1-small", None): _t5(512, 1024, 6, 8),
    ("google/t5-v1_1-base", None): _t5(768, 2048, 12, 12),
    ("google/t5-v1_1-large", None): _t5(1024, 2816, 16, 24),
    ("google/t5-v1_1-xl", None): _t5(2048, 5120, 32, 24),
    ("google/t5-v1_1-xxl", None): _T5_XXL,
    ("DeepFloyd/t5-v1_1-xxl", None): _T5_XXL,
    ("city96/t5-v1_1-xxl-encoder-bf16", None): _T5_XXL,
}
"""(repository on the hub, subfolder) → what its config.json says, where that differs from the defaults of its class."""
