"""LoRAs in files: a folder as the library peft writes it, and one safetensors file as ComfyUI reads it. No pickle.

FOLDER/adapter_config.json          settings                              peft.PeftModel.from_pretrained(ptdit, FOLDER)
FOLDER/adapter_model.safetensors    base_model.model.<layer>.lora_A.weight …
FOLDER/lora.safetensors             diffusion_model.<layer>.lora_A.weight, .lora_B.weight, .alpha …
FOLDER/trained_whole.safetensors    what was trained whole besides, if anything: adapters.<task>. …
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2x_core.errors import UserError
from t2x_core.lora.layers import MAGNITUDE, A, B, Kind, LayerUpdate, Lora, scale_of
from t2x_core.plain_files import parse_json, read_json, write_whole, written_whole
from t2x_core.runs import PYTORCH
from t2x_core.tensor_files import save_tensors
from t2x_core.weight_files import stored_tensors

CONFIG, MODEL, SINGLE, WHOLE = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "lora.safetensors",
    "trained_whole.safetensors",
)
PEFT_PREFIX, COMFY_PREFIX = "base_model.model.", "diffusion_model."
KINDS: dict[str, Kind] = {"LORA": "lora", "LOKR": "lokr"}
"""peft's name of a kind → ours."""
FOREIGN = ("fan_in_fan_out", "lora_bias", "layer_replication", "use_qalora", "use_bdlora", "alora_invocation_tokens")
"""Settings of peft that give an update another meaning."""
KEY = re.compile(
    r"(?:base_model\.model\.|diffusion_model\.|transformer\.)?(?P<layer>.+?)\."
    r"(?P<tensor>lora_[AB]|lora_down|lora_up|lora_magnitude_vector|dora_scale|alpha|lokr_w[12](?:_[ab])?)"
    r"(?:\.default)?(?:\.weight)?"
)
"""Of a tensor, by whichever convention."""
LARGEST_RANK = 2**20
OURS = {"lora_down": A, "lora_up": B, "dora_scale": MAGNITUDE}
"""What other trainers call a tensor → what peft calls it."""


def refuse_pickle(place: Path) -> None:
    """UserError for a file of a kind that could run code."""
    if place.suffix.lower() in (*PYTORCH, ".pkl", ".pickle"):
        raise UserError(f"{place} may be a pickle, which can run code", hint="a LoRA is read from safetensors alone")


def read_lora(place: Path) -> Lora:
    """A LoRA in a folder of peft's, or in a single safetensors file.

    Raises:
        UserError: it is neither, is damaged, or holds what is no update of a linear layer.
    """
    refuse_pickle(place)
    folder = place.parent if place.name == MODEL and (place.parent / CONFIG).is_file() else place
    if not folder.is_dir():
        return _single(folder)
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} holds no LoRA: there is no {CONFIG} in it")
    if not (folder / MODEL).is_file():
        others = sorted(file for file in folder.iterdir() if file.suffix.lower() in PYTORCH)
        if others:
            refuse_pickle(others[0])
        raise UserError(f"{folder} holds no LoRA: there is no {MODEL} in it")
    return _folder(folder)


def _folder(folder: Path) -> Lora:
    try:
        config = read_json(folder / CONFIG)
        kind = KINDS.get(str(config.get("peft_type")))
        rank, alpha = int(config["r"]), float(config["alpha" if kind == "lokr" else "lora_alpha"])
        alphas = {str(k): float(v) for k, v in (config.get("alpha_pattern") or {}).items()}
        ranks = {str(k): int(v) for k, v in (config.get("rank_pattern") or {}).items()}
        if not all(1 <= number <= LARGEST_RANK for number in (rank, *ranks.values())):
            raise ValueError("a rank is out of range")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"{folder / CONFIG} is damaged, or none of a LoRA ({what})") from error
    if kind is None:
        raise UserError(f"{folder} is of the kind {config.get('peft_type')}", hint="LORA and LOKR are read")
    if other := [name for name in FOREIGN if config.get(name)]:
        raise UserError(f"{folder} was trained with {other[0]}, which is not read")
    layers, _, (base, origin) = _tensors(folder / MODEL)
    rslora = bool(config.get("use_rslora"))
    updates = {}
    for layer, tensors in layers.items():
        own = LayerUpdate(tensors, 1.0)
        r = own.rank or _by_end(layer, ranks, rank)
        updates[layer] = LayerUpdate(tensors, _finite(scale_of(_by_end(layer, alphas, alpha), r, rslora), folder))
    whole = stored_tensors(folder / WHOLE)[0] if (folder / WHOLE).is_file() else {}
    dora = any(MAGNITUDE in tensors for tensors in layers.values())
    return Lora(
        *(updates, kind, rank, alpha, rslora, dora),
        whole={name: tensor.full() for name, tensor in whole.items()},
        base=base,
        origin=origin,
    )


def _finite(scale: float, place: Path) -> float:
    """The scale of an update; UserError if float32 does not hold it."""
    if not abs(scale) <= torch.finfo(torch.float32).max:
        raise UserError(f"{place} is damaged: an update is multiplied by {scale:g}")
    return scale


def _held(dtype: torch.dtype) -> torch.dtype:
    """What tensors of a type are computed with: PyTorch computes nothing in 8 bits."""
    return dtype if dtype.itemsize > 1 else torch.float32


def _by_end(layer: str, table: Mapping[str, Any], default: Any) -> Any:
    """What peft's patterns say of a layer, which are taken for ends of its name."""
    return next((value for end, value in table.items() if f".{layer}".endswith(f".{end}")), default)


def _single(file: Path) -> Lora:
    if not file.is_file():
        raise UserError(f"there is no LoRA {file}", hint="a run, a folder of peft's, or a .safetensors file")
    layers, alphas, (base, origin) = _tensors(file)
    updates = {}
    for layer, tensors in layers.items():
        rank, alpha = LayerUpdate(tensors, 1.0).rank, alphas.get(layer)
        updates[layer] = LayerUpdate(tensors, 1.0 if alpha is None or rank is None else _finite(alpha / rank, file))
    kind: Kind = "lora" if any(A in tensors for tensors in layers.values()) else "lokr"
    first = next(iter(updates.values()))
    return Lora(updates, kind, first.rank or 0, first.scale * (first.rank or 0), base=base, origin=origin)


def _tensors(file: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, float], tuple[str, str]]:
    """Layer → tensor's name → tensor; layer → alpha; hash and origin of the base, if it says."""
    stored, metadata = stored_tensors(file)
    layers: dict[str, dict[str, Tensor]] = {}
    alphas: dict[str, float] = {}
    for name, tensor in stored.items():
        found = KEY.fullmatch(name)
        if found is None:
            hint = "a whole network is named by backbone.weights"
            raise UserError(f"{file} is no LoRA: {name} is no update of a linear layer", hint=hint)
        what = OURS.get(found["tensor"], found["tensor"])
        if what == "alpha":
            if math.prod(tensor.shape) != 1:
                raise UserError(f"{file} is damaged: {name} is no number")
            alphas[found["layer"]] = float(tensor.full().reshape(()))
            continue
        content = tensor.full()
        if not content.is_floating_point() or not (content := content.to(_held(content.dtype))).isfinite().all():
            raise UserError(f"{file} is damaged: {name} holds what is no finite number")
        if what in layers.get(found["layer"], {}):
            raise UserError(f"{file} holds {what} of {found['layer']} twice")
        layers.setdefault(found["layer"], {})[what] = content.reshape(-1) if what == MAGNITUDE else content
    if not layers:
        raise UserError(f"{file} holds no LoRA")
    for layer, tensors in layers.items():
        if not LayerUpdate(tensors, 1.0).is_whole or any(t.ndim != 2 for n, t in tensors.items() if n != MAGNITUDE):
            raise UserError(f"{file} holds half of an update of {layer}: {', '.join(sorted(tensors))}")
        if not LayerUpdate(tensors, 1.0).fits:
            sizes = ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in sorted(tensors))
            raise UserError(f"{file} is damaged: the tensors of {layer} do not fit together ({sizes})")
    try:
        noted = parse_json(metadata.get("t2x", "{}"))
        base, origin = (str(noted.get(key, "")) for key in ("base", "origin"))
    except ValueError:  # of another program
        base = origin = ""
    return layers, alphas, (base, origin)


def write_lora(lora: Lora, folder: Path) -> None:
    """Writes all files of a LoRA into a folder, which is made.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", "t2x": json.dumps({"base": lora.base, "origin": public_name(lora.origin)})}
    for name, tensors in ((MODEL, _as_peft(lora)), (SINGLE, _as_comfy(lora)), (WHOLE, lora.whole)):
        if tensors:
            with written_whole(folder / name) as beside:
                save_tensors({key: t.detach().cpu() for key, t in tensors.items()}, beside, metadata)
    write_whole(folder / CONFIG, json.dumps(_config(lora), indent=1) + "\n")


def public_name(origin: str) -> str:
    """Where a base came from, without the folders of whose machine it is: "quickstart/2026-01-31_12-00-00"."""
    parts = Path(origin).parts
    if origin.startswith("hf://") or not parts:
        return origin
    return "/".join(parts[-4:-2]) if parts[-2:-1] == ("checkpoints",) else parts[-1]


def _config(lora: Lora) -> dict[str, Any]:
    """adapter_config.json."""
    alpha = int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha
    common = {
        "base_model_name_or_path": public_name(lora.origin),
        "inference_mode": True,
        "r": lora.rank,
        "task_type": None,
        "target_modules": sorted(lora.layers),
    }
    if lora.kind == "lokr":
        return {"peft_type": "LOKR", "alpha": alpha, **common}
    scaled = {"lora_alpha": alpha, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False}
    return {"peft_type": "LORA", **scaled, "use_rslora": lora.rslora, "use_dora": lora.dora, **common}


def _as_peft(lora: Lora) -> dict[str, Tensor]:
    return {
        f"{PEFT_PREFIX}{layer}.{name}" + ("" if name == MAGNITUDE or name.startswith("lokr") else ".weight"): tensor
        for layer, update in lora.layers.items()
        for name, tensor in update.tensors.items()
    }


def _as_comfy(lora: Lora) -> dict[str, Tensor]:
    """With alpha / rank as the scale of whatever kind; of two whole factors, which have no rank, it is in the first."""
    found = {}
    for layer, update in lora.layers.items():
        place = f"{COMFY_PREFIX}{layer}"
        for name, tensor in update.tensors.items():
            if name == MAGNITUDE:
                found[f"{place}.dora_scale"] = tensor.unsqueeze(1)
            elif name.startswith("lokr"):
                folded = update.rank is None and name.startswith("lokr_w1")
                found[f"{place}.{name}"] = tensor * update.scale if folded else tensor
            else:
                found[f"{place}.{name}.weight"] = tensor
        if update.rank is not None:
            found[f"{place}.alpha"] = torch.tensor(update.scale * update.rank)
    return found
