"""A backbone alone: saved, opened and pushed by huggingface_hub's mixin; files are read back by other libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from torch import nn

from t2x_core.backbone import PTDiT, PTDiTConfig
from t2x_core.errors import UserError
from t2x_core.types import Conditioning, ConditioningDims

TEXT, RAYS = ConditioningDims(text=12, vector=5), ConditioningDims(text=12, frames=3, concat=2)
CONFIG = PTDiTConfig(
    *(4, 32, 2, 2),
    window=(1, 2, 2),
    qk_norm=True,
    dims=ConditioningDims(text=12, vector=5, frames=3, concat=2),
    shared_by=(TEXT, RAYS),
)


def random_model(config: PTDiTConfig = CONFIG) -> PTDiT:
    torch.manual_seed(0)
    model = PTDiT(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def output(model: PTDiT) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents, text = torch.randn(2, 4, 2, 8, 8, generator=generator), torch.randn(2, 5, 12, generator=generator)
    with torch.no_grad():
        out = model(latents, torch.tensor([0.2, 0.9]), Conditioning(text, torch.ones(2, 5, dtype=torch.bool)))
    assert isinstance(out, torch.Tensor)
    return out


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, window="auto", attention="fused", position="rope", shared_by=()),
        replace(CONFIG, window=(1, 2, 2), released=True, qk_norm=False),
    ],
)
def test_saved_and_opened_again_it_is_the_same(config: PTDiTConfig, tmp_path: Path) -> None:
    model = random_model(config)
    model.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again = PTDiT.from_pretrained(tmp_path)
    assert again.config == config
    assert not again.training
    assert torch.equal(output(again), output(model))
    half = PTDiT.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


def test_the_files_are_what_other_libraries_read(tmp_path: Path) -> None:
    model = random_model()
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in tensors.items())
    plain = json.loads((tmp_path / "config.json").read_text())
    assert (plain["width"], plain["window"], plain["dims"]["text"]) == (32, [1, 2, 2], 12)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "t2x"
    assert "2409.04005" in card.text


def test_opening_one_imports_neither_lightning_nor_what_training_needs(tmp_path: Path) -> None:
    random_model().save_pretrained(tmp_path)
    code = (
        "import sys; from t2x_core.backbone import PTDiT\n"
        f"PTDiT.from_pretrained({str(tmp_path)!r})\n"
        "heavy = ('lightning', 'pytorch_lightning', 'torchvision', 'timm', 'diffusers', 'transformers', 'omegaconf')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_push_to_hub_sends_the_three_files(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}

    class Hub:
        def __init__(self, token: str | None = None) -> None:
            pass

        def create_repo(self, repo_id: str, **options: Any) -> Any:
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> str:
            sent[repo_id] = sorted(file.name for file in Path(folder_path).iterdir())
            return "https://huggingface.co/commit"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Hub)
    random_model().push_to_hub("somebody/something")
    assert sent == {"somebody/something": ["README.md", "config.json", "model.safetensors"]}


def test_a_hub_id_is_found_in_the_cache(tmp_path: Path) -> None:
    """Laid out as huggingface_hub keeps what it has downloaded."""
    model, root = random_model(), tmp_path / "cache/models--somebody--something"
    model.save_pretrained(root / "snapshots" / ("c" * 40))
    (root / "refs").mkdir()
    (root / "refs/main").write_text("c" * 40)
    again = PTDiT.from_pretrained("somebody/something", cache_dir=tmp_path / "cache", local_files_only=True)
    assert torch.equal(output(again), output(model))


class TestMistakes:
    def test_a_folder_without_a_config(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"is no exported backbone: it has no config\.json; export a run by"):
            PTDiT.from_pretrained(tmp_path)

    def test_a_pickle_beside_a_config_is_not_read(self, tmp_path: Path) -> None:
        model = random_model()
        model.save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        with pytest.raises(UserError, match=r"has no model\.safetensors, and nothing else is read"):
            PTDiT.from_pretrained(tmp_path)

    def test_damaged_weights(self, tmp_path: Path) -> None:
        random_model().save_pretrained(tmp_path)
        file = tmp_path / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-9])
        with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
            PTDiT.from_pretrained(tmp_path)

    def test_weights_of_another_model(self, tmp_path: Path) -> None:
        random_model().save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        tensors["head.table"] = tensors["head.table"][:1].clone()
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(UserError, match=r"does not fit its config\.json: size mismatch for head\.table"):
            PTDiT.from_pretrained(tmp_path)

    @pytest.mark.parametrize("change", [{"width": 33}, {"window": [1, 2]}, {"dims": {"smell": 3}}, {"depth": None}])
    def test_a_config_of_something_else(self, change: dict[str, Any], tmp_path: Path) -> None:
        random_model().save_pretrained(tmp_path)
        file = tmp_path / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        with pytest.raises(UserError, match="describes no PT-DiT"):
            PTDiT.from_pretrained(tmp_path)
