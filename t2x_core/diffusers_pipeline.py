"""A text-to-image PT-DiT as a pipeline of diffusers: no recipe, no plugin and no Lightning is needed.

Example:
    from t2x_core.diffusers_pipeline import PTDiTPipeline

    pipe = PTDiTPipeline.from_pretrained("my-model")  # as `t2x export RUN --out my-model --format diffusers` wrote it
    pipe("a large red circle", generator=torch.Generator().manual_seed(1)).images[0].save("x.png")
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, DiffusionPipeline, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from t2x_core.backbone import PTDiT
from t2x_core.backbone.pretrained import config_of
from t2x_core.types import Conditioning


class PTDiTTransformer(ModelMixin, ConfigMixin):
    """The backbone, with what stands for "no caption", as a model of diffusers; it predicts the velocity ε − x₀.

    Args:
        sizes: the fields of `PTDiTConfig`.
        prediction: what the backbone's output means, "velocity" or "clean".
        vector: whether the mean of the valid text tokens is a condition, too.
        learned_null: whether "no caption" is learned; else it is the empty prompt.
    """

    @register_to_config
    def __init__(
        self, sizes: dict[str, Any], prediction: str = "velocity", vector: bool = True, learned_null: bool = True
    ) -> None:
        super().__init__()
        config = config_of(sizes, "the transformer")
        self.backbone = PTDiT(config)
        self.null_token = nn.Parameter(torch.zeros(config.dims.text)) if learned_null else None
        self.null_vector = nn.Parameter(torch.zeros(config.dims.vector)) if learned_null and vector else None

    def conditioning(self, tokens: Tensor, mask: Tensor) -> Conditioning:
        """Of text tokens (B, T, Dt) and their mask (B, T), True = valid."""
        weight = mask[..., None].to(tokens.dtype)
        vector = (tokens * weight).sum(1) / weight.sum(1) if self.config.vector else None
        return Conditioning(tokens, mask, vector)

    def null(self, like: Conditioning) -> Conditioning:
        """No caption, as it was learned, in the shape of another conditioning."""
        assert self.null_token is not None
        assert like.text is not None
        mask = torch.zeros(like.text.shape[:2], dtype=torch.bool, device=like.text.device)
        mask[:, 0] = True
        vector = None if self.null_vector is None else self.null_vector.expand(len(mask), -1)
        return Conditioning(self.null_token.expand_as(like.text), mask, vector)

    def forward(self, latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Latents (B, C, H, W) at t (B,) in (0, 1] → velocity, alike."""
        output = self.backbone(latents.unsqueeze(2), t, conditioning)[:, : latents.shape[1], 0]
        if self.config.prediction == "velocity":
            return output
        return (latents - output) / t.view(-1, 1, 1, 1)


class PTDiTPipeline(DiffusionPipeline):
    """Text to image.

    Args:
        transformer: `PTDiTTransformer`.
        vae: AutoencoderKL.
        text_encoder, tokenizer: of transformers: the model's last hidden states are the text tokens.
        scheduler: FlowMatchEulerDiscreteScheduler.
        sample_size: (height, width) of images by default, in pixels.
        max_tokens: tokens of a prompt that are read.
        template: text around the prompt, which stands for `{}`.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"

    def __init__(
        self,
        transformer: PTDiTTransformer,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        sample_size: tuple[int, int] | list[int] = (256, 256),
        max_tokens: int = 120,
        template: str = "{}",
    ) -> None:
        super().__init__()
        parts = {"transformer": transformer, "vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer}
        self.register_modules(**parts, scheduler=scheduler)
        self.register_to_config(sample_size=list(sample_size), max_tokens=max_tokens, template=template)
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.factor)

    def encode_prompt(self, prompts: list[str]) -> Conditioning:
        """What the transformer is given of prompts."""
        found = self.tokenizer(
            [self.config.template.replace("{}", prompt) for prompt in prompts],
            padding="max_length",
            padding_side="right",
            truncation=True,
            max_length=self.config.max_tokens,
            return_tensors="pt",
        ).to(self._execution_device)
        mask = found["attention_mask"].bool()
        mask[:, 0] = True
        tokens = self.text_encoder(input_ids=found["input_ids"], attention_mask=mask.long()).last_hidden_state
        return self.transformer.conditioning(tokens.to(self.transformer.dtype), mask)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        negative_prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float = 4.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Images for prompts.

        Args:
            latents: noise (B, C, H/f, W/f), instead of that of `generator`.
            output_type: "pil", "np", "pt" or "latent".
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        patch = self.factor * self.transformer.backbone.config.patch_size
        height, width = height or self.config.sample_size[0], width or self.config.sample_size[1]
        if height % patch or width % patch:
            raise ValueError(f"height and width must be multiples of {patch}, not {height}×{width}")
        device, dtype, channels = self._execution_device, self.transformer.dtype, self.vae.config.latent_channels
        shape = (len(prompts), channels, height // self.factor, width // self.factor)
        x = randn_tensor(shape, generator, device, dtype) if latents is None else latents.to(device, dtype)

        condition = self.encode_prompt(prompts)
        if guidance_scale != 1:
            negative = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else negative_prompt
            if negative is None and self.transformer.config.learned_null:
                null = self.transformer.null(condition)
            else:
                null = self.encode_prompt(negative or [""] * len(prompts))
            condition = condition.cat(null)

        self.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / num_inference_steps, num_inference_steps), device=device)
        for timestep in self.progress_bar(self.scheduler.timesteps):
            t = (timestep / self.scheduler.config.num_train_timesteps).to(dtype)
            if guidance_scale == 1:
                velocity = self.transformer(x, t.expand(len(x)), condition)
            else:
                both = self.transformer(torch.cat([x, x]), t.expand(2 * len(x)), condition)
                conditional, unconditional = both.chunk(2)
                velocity = unconditional + guidance_scale * (conditional - unconditional)
            x = self.scheduler.step(velocity, timestep, x, return_dict=False)[0]

        images: Any = x
        if output_type != "latent":
            z = x.to(self.vae.dtype) / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
            images = self.image_processor.postprocess(self.vae.decode(z).sample, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)
