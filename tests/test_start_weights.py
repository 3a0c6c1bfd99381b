"""Six kinds of `backbone.weights`, each made by its own library: a run and a checkpoint in it, an exported folder, a
repository on the hub, the released file, safetensors in one file or several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.backbone import PTDiT
from t2x_core.backbone.embeddings import position_table, rotation
from t2x_core.checkpoint import checkpoints_of, materialize, read_checkpoint
from t2x_core.errors import UserError
from t2x_core.generation import T2XPipeline
from t2x_core.initial import open_start
from t2x_core.recipe import to_plain
from t2x_core.training import fit, run_folder
from t2x_core.types import FrameAxis
from tests.conftest import TINY

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assembly = load_assembly("quickstart", TINY)
    folder.mkdir()
    run_folder.write_run(folder, to_plain(assembly.recipe))
    module = build_module(assembly)
    fit(assembly, module, build_data(assembly, module), folder)
    return folder


@pytest.fixture(scope="module")
def trained(run: Path) -> dict[str, Tensor]:
    """The averaged weights of the run's backbone, by their names in it."""
    found = materialize(read_checkpoint(checkpoints_of(run)[-1])["ema"]["weights"])
    return {n.removeprefix("backbone."): t for n, t in found.items() if n.startswith("backbone.")}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a repository's commit in an offline cache, laid out as huggingface_hub does it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = (
        tmp_path / "hub" / huggingface_hub.file_download.repo_folder_name(repo_id="me/shapes", repo_type="model")
    )
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    return snapshot


def assert_starts(place: Path | str, trained: dict[str, Tensor]) -> list[str]:
    """All of the backbone is loaded from a place; returns what the log says."""
    assembly = load_assembly("quickstart", [*TINY, "seed=5", f"backbone.weights={place}"])
    module = build_module(assembly)
    start = open_start(assembly, module)
    start.load(module)
    for name, tensor in module.backbone.state_dict().items():
        assert torch.equal(tensor, trained[name]), name
    return start.describe()


def sharded_by_diffusers(weights: dict[str, Tensor], folder: Path) -> None:
    """A model of diffusers with these weights, saved by diffusers in several files with an index."""
    diffusers = pytest.importorskip("diffusers")

    class Backbone(diffusers.ModelMixin, diffusers.ConfigMixin):  # type: ignore[misc, name-defined]
        config_name = "config.json"

        @diffusers.configuration_utils.register_to_config
        def __init__(self, width: int = 32) -> None:
            super().__init__()
            self.backbone = PTDiT(build_module(load_assembly("quickstart", TINY)).backbone.config)

    model = Backbone()
    model.backbone.load_state_dict(weights)
    model.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("diffusion_pytorch_model-*-of-*.safetensors"))) > 1
    assert (folder / "diffusion_pytorch_model.safetensors.index.json").is_file()


class TestKinds:
    def test_a_run_and_a_checkpoint_in_it(self, run: Path, trained: dict[str, Tensor]) -> None:
        assert "averaged weights" in assert_starts(run, trained)[0]
        assert_starts(checkpoints_of(run)[-1], trained)

    def test_an_exported_folder(self, run: Path, trained: dict[str, Tensor], tmp_path: Path) -> None:
        T2XPipeline.from_pretrained(run, device="cpu").save_pretrained(tmp_path / "model")
        assert "averaged weights" in assert_starts(tmp_path / "model", trained)[0]

    def test_a_repository_on_the_hub(self, run: Path, trained: dict[str, Tensor], hub: Path) -> None:
        """An export, a backbone alone, one file of it; the log names the commit."""
        T2XPipeline.from_pretrained(run, device="cpu").save_pretrained(hub)
        (line,) = assert_starts("hf://me/shapes", trained)
        assert f"hf://me/shapes@{COMMIT}: averaged weights" in line
        assert_starts("hf://me/shapes/model.safetensors", trained)
        PTDiT.from_pretrained(hub).save_pretrained(hub / "backbone")
        assert_starts(f"hf://me/shapes@{COMMIT}/backbone", trained)

    @pytest.mark.parametrize("wrapped", [False, True])
    @pytest.mark.parametrize("ending", ["pt", "pth"])
    def test_a_file_of_torch(self, wrapped: bool, ending: str, trained: dict[str, Tensor], tmp_path: Path) -> None:
        """(The authors' own layout: tests/test_released_recipe.py.)"""
        file = tmp_path / f"weights.{ending}"
        torch.save({"step": 3, "ema": {f"module.{n}": t for n, t in trained.items()}} if wrapped else trained, file)
        assert_starts(file, trained)

    def test_safetensors_in_one_file(self, trained: dict[str, Tensor], tmp_path: Path) -> None:
        save_file(trained, tmp_path / "x.safetensors")
        assert_starts(tmp_path / "x.safetensors", trained)
        assert_starts(tmp_path, trained)

    def test_safetensors_in_several_files(self, trained: dict[str, Tensor], tmp_path: Path) -> None:
        """What the index does not list is left alone: another precision of the same, say."""
        sharded_by_diffusers(trained, tmp_path)
        save_file({n: t + 1 for n, t in trained.items()}, tmp_path / "zz.fp16.safetensors")
        assert_starts(tmp_path, trained)


class TestRefused:
    def refused(self, place: Path | str) -> str:
        assembly = load_assembly("quickstart", [*TINY, f"backbone.weights={place}"])
        with pytest.raises(UserError) as caught:
            open_start(assembly, build_module(assembly))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize("ending", ["pt", "pth", "bin", "ckpt"])
    def test_a_pickle_with_code(self, ending: str, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return Path.touch, (tmp_path / "it_ran",)

        torch.save({"weight": torch.zeros(2), "evil": Evil()}, tmp_path / f"x.{ending}")
        assert "holds more than tensors" in self.refused(tmp_path / f"x.{ending}")
        assert not (tmp_path / "it_ran").exists()

    def test_a_repository_that_wants_to_run_code(self, hub: Path) -> None:
        (hub / "config.json").write_text('{"model_type": "evil", "auto_map": {"AutoModel": "evil.Model"}}')
        (hub / "evil.py").write_text(f"open({str(hub / 'it_ran')!r}, 'w')\nclass Model: ...\n")
        torch.save({"weight": torch.zeros(2)}, hub / "pytorch_model.bin")
        said = self.refused("hf://me/shapes")
        assert "me/shapes has no safetensors on the hub; pickles and code of a repository are not read" in said
        assert not (hub / "it_ran").exists()

    def test_a_folder_that_is_not_whole(self, trained: dict[str, Tensor], tmp_path: Path) -> None:
        sharded_by_diffusers(trained, tmp_path)
        last = sorted(tmp_path.glob("*.safetensors"))[-1]
        last.unlink()
        assert f"is not whole: its index lists {last.name}, which is not there" in self.refused(tmp_path)
        index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"a": "../../outside.safetensors"}}))
        assert "outside of its folder" in self.refused(tmp_path)
        index.write_text("[]")
        assert "is damaged" in self.refused(tmp_path)

    def test_a_hub_id_without_its_scheme_gets_a_hint(self) -> None:
        assembly_error = pytest.raises(UserError, match="if it is on the hub, write hf://me/shapes")
        with assembly_error:
            assembly = load_assembly("quickstart", [*TINY, "backbone.weights=me/shapes"])
            open_start(assembly, build_module(assembly))


class TestPositions:
    """Going on at r times the size: with `position_scale=r`, positions are the trained ones, interpolated."""

    @pytest.mark.parametrize("r", [2, 3])
    def test_the_table_goes_through_the_trained_positions(self, r: int) -> None:
        """Every r-th row and column is a trained one; between them it is sin and cos of the fraction."""
        (f, h, w), D, cpu = (2, 4, 6), 32, torch.device("cpu")
        trained = position_table((f, h, w), D, 1.0, cpu).view(f, h, w, D)
        larger = position_table((f, r * h, r * w), D, float(r), cpu).view(f, r * h, r * w, D)
        torch.testing.assert_close(larger[:, ::r, ::r], trained, atol=1e-6, rtol=0)
        frequencies = 10000.0 ** -(torch.arange(6, dtype=torch.float64) / 6)  # 3D/8 channels of the column: 6 and 6
        for column in range(r * w):
            angles = column / r * frequencies
            expected = torch.cat((angles.sin(), angles.cos())).float()
            torch.testing.assert_close(larger[0, 0, column, 8:20], expected, atol=1e-6, rtol=0)

    def test_rotary_positions_do_so_too(self) -> None:
        trained, between = torch.tensor([[1.0, 3.0, 5.0]]), torch.tensor([[1.0, 6.0, 10.0]])
        scaled = between / torch.tensor([1, 2, 2])
        assert torch.equal(rotation(trained, 16).cos, rotation(scaled, 16).cos)

    def test_the_recipe_reaches_the_network(self) -> None:
        """Rotary angles of a network at twice the size: every second row and column has the trained ones."""
        settings = [*TINY, "backbone.position=rope", "backbone.attention=dense"]
        found = []
        for side, scale in ((4, 1), (8, 2)):
            assembly = load_assembly("quickstart", [*settings, f"backbone.position_scale={scale}"])
            layout = build_module(assembly).backbone.layout((1, side, side), torch.device("cpu"), FrameAxis())
            assert layout.rotation is not None
            found.append(layout.rotation.cos.view(side, side, -1))
        torch.testing.assert_close(found[1][::2, ::2], found[0], atol=1e-6, rtol=0)

    def test_the_log_says_which_scale(self, run: Path) -> None:
        def said(*settings: str) -> str:
            assembly = load_assembly("quickstart", [*TINY, *settings])
            return "\n".join(open_start(assembly, build_module(assembly), str(run)).describe())

        larger = "tasks.text-to-image.data.shapes.size=48"
        line = "12 tokens a side here, 4 there: backbone.position_scale=3 interpolates positions"
        assert line in said(larger)
        assert "interpolates positions" not in said(larger, "backbone.position_scale=3")
        assert "backbone.position_scale is 3.0 here, 1.0 there" in said(larger, "backbone.position_scale=3")
        assert "interpolates positions" not in said()
