"""A backbone on disk and on the Hugging Face hub: config.json and model.safetensors, by huggingface_hub's own mixin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelHubMixin, constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file

from t2x_core.backbone.config import PTDiTConfig
from t2x_core.errors import UserError
from t2x_core.tensor_files import save_tensors
from t2x_core.types import ConditioningDims

WEIGHTS = constants.SAFETENSORS_SINGLE_FILE
INSIDE = "backbone."
"""In front of the names where a whole pipeline was exported."""
CARD = """---
{{ card_data }}
---

# PT-DiT

The backbone of a t2x model: the proxy-tokenized diffusion transformer ([arXiv 2409.04005](https://arxiv.org/abs/2409.04005)).
Its output is what it was trained for: the velocity ε − x₀ of x_t = (1 − t)·x₀ + t·ε, or the clean sample x₀.

```python
from t2x_core.backbone import PTDiT

model = PTDiT.from_pretrained("THIS_REPOSITORY")
output = model(latents, t, conditioning)  # (B, C, F, H, W), (B,) in [0, 1], t2x_core.types.Conditioning
```
"""


class Pretrained(
    ModelHubMixin,
    library_name="t2x",
    paper_url="https://arxiv.org/abs/2409.04005",
    model_card_template=CARD,
    tags=["pt-dit"],
):
    """`save_pretrained`, `from_pretrained` and `push_to_hub` of a backbone. Only safetensors are read."""

    config: PTDiTConfig

    def _save_pretrained(self, save_directory: Path) -> None:
        assert isinstance(self, torch.nn.Module)
        weights = {name: tensor.detach().cpu() for name, tensor in self.state_dict().items()}
        save_tensors(weights, save_directory / WEIGHTS, metadata={"format": "pt"})

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        config: Any = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Called by `from_pretrained`, which has read config.json.

        Raises:
            UserError: something is missing, damaged, or does not fit.
        """
        if config is None:
            hint = "export a run by t2x export RUN --out FOLDER"
            raise UserError(f"{model_id} is no exported backbone: it has no {constants.CONFIG_NAME}", hint=hint)
        file = Path(model_id) / WEIGHTS
        if not Path(model_id).is_dir():
            options = {"revision": revision, "cache_dir": cache_dir, "force_download": force_download}
            try:
                found = hf_hub_download(model_id, WEIGHTS, token=token, local_files_only=local_files_only, **options)
            except EntryNotFoundError as error:
                raise UserError(f"{model_id} has no {WEIGHTS}, and nothing else is read") from error
            file = Path(found)
        try:
            weights = load_file(file, device=str(device))
        except FileNotFoundError as error:
            raise UserError(f"{model_id} has no {WEIGHTS}, and nothing else is read") from error
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is damaged: {error}") from error
        if any(name.startswith(INSIDE) for name in weights):
            weights = {n.removeprefix(INSIDE): tensor for n, tensor in weights.items() if n.startswith(INSIDE)}
        with torch.device("meta"):
            model: Any = cls(config_of(config, model_id))  # type: ignore[call-arg]
        try:
            model.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            first = str(error).strip().splitlines()[1].strip()
            raise UserError(f"{file} does not fit its {constants.CONFIG_NAME}: {first}") from error
        return model.to(dtype=dtype).eval()


def config_of(plain: Mapping[str, Any], where: str) -> PTDiTConfig:
    """The configuration in a config.json; UserError if it is none."""
    known = {field.name for field in fields(PTDiTConfig)}
    try:
        values = {name: value for name, value in plain.items() if name in known}
        window = values.get("window", "auto")
        values["window"] = window if window == "auto" else tuple(window)
        values["dims"] = ConditioningDims(**values.get("dims", {}))
        values["shared_by"] = tuple(ConditioningDims(**dims) for dims in values.get("shared_by", ()))
        return PTDiTConfig(**values)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{constants.CONFIG_NAME} of {where} describes no PT-DiT: {error}") from error


def config_json(config: PTDiTConfig) -> str:
    """The text of a config.json."""
    return json.dumps(asdict(config), indent=2, sort_keys=True)
