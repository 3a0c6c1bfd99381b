"""The released model as a recipe: end to end, with tiny random stand-ins that their own libraries have saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from t2x_core.assembly import build_module, load_assembly
from t2x_core.backbone import load_released
from t2x_core.cli.main import main
from t2x_core.errors import UserError
from t2x_core.generation import T2XPipeline
from t2x_core.initial import open_start
from t2x_core.types import Conditioning
from t2x_core.weight_files import weights_hash
from tests.data.image_set import write_good
from tests.encoders.tiny_models import save_text_encoder, save_vae

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
REFERENCE = Path(__file__).parent / "backbone/reference/pt_dit_image.safetensors"
NAME = "text_to_image/qihoo_t2i_1b"


def reference() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a small model in the released layout, and its configuration."""
    with safe_open(REFERENCE, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["config"])


def released() -> dict[str, Tensor]:
    return {name: tensor for name, tensor in reference()[0].items() if name.startswith("model.")}


@pytest.fixture
def stand_ins(tmp_path: Path) -> list[str]:
    """Settings with which the recipe is one of tiny models of the same classes, in `tmp_path`."""
    import transformers as hf

    config = reference()[1]
    save_vae(tmp_path / "vae")
    save_text_encoder(tmp_path / "t5")  # for its tokenizer
    width = config["caption_channels"]
    torch.manual_seed(0)
    small = hf.T5Config(vocab_size=300, d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2, pad_token_id=0)
    hf.T5EncoderModel(small).save_pretrained(tmp_path / "t5")
    save_file(released(), tmp_path / "released.safetensors")
    heads, channels = config["num_heads"], config["num_heads"] * config["head_dim"]
    window = ", ".join(map(str, config["compress_ratios"]))
    return [
        f"backbone.weights={tmp_path / 'released.safetensors'}",
        *(f"backbone.{key}={value}" for key, value in {"width": channels, "depth": config["num_layers"]}.items()),
        *(f"backbone.heads={heads}", f"backbone.window=[{window}]", f"backbone.patch_size={config['patch_size']}"),
        f"codec={{name: autoencoder, weights: {{folder: {tmp_path / 'vae'}, hub: null}}, dtype: float32}}",
        f"text_encoders.t5.weights={{folder: {tmp_path / 't5'}, hub: null}}",
        *("text_encoders.t5.dtype=float32", "text_encoders.t5.max_tokens=16", "diffusion.sampler.steps=2"),
        *("tasks.text-to-image.data.images.size=32", "trainer.accelerator=cpu", "trainer.precision=32-true"),
    ]


SHORT = [
    *("trainer.max_steps=2", "trainer.global_batch=4", "trainer.accumulation=1", "trainer.workers=0"),
    *("optimizer.warmup_steps=1", "logging.validate_every=2", "logging.sample_every=0", "logging.samples=2"),
    *("logging.checkpoint_every=2", "trainer.gradient_checkpointing=false"),
]


def as_recipe(tmp_path: Path, settings: list[str]) -> Path:
    """The settings as a recipe that starts from the shipped one."""
    from t2x_core.recipe import compose, dump_yaml

    file = tmp_path / "mine.yaml"
    file.write_text(dump_yaml(compose(NAME, settings).root.plain()))
    return file


def test_the_network_is_that_of_the_release(stand_ins: list[str]) -> None:
    """All of the file is loaded, and the outputs are those that the authors' model gave."""
    tensors, config = reference()
    assembly = load_assembly(NAME, stand_ins)
    module = build_module(assembly)
    start = open_start(assembly, module)
    start.check_complete()
    assert not start.match.left_out
    start.load(module)
    text = Conditioning(tensors["input.text"], tensors["input.text_mask"].bool())
    with torch.no_grad():
        out = module.backbone(tensors["input.latent"], tensors["input.timestep"] / 1000, text)
    expected = tensors["output"].clone()
    expected[:, : config["in_channels"]] *= -1
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    by_hand = load_released(released(), config).state_dict()
    for name, weight in module.backbone.state_dict().items():
        assert torch.equal(weight, by_hand[name])


def test_the_full_size_is_the_released_one() -> None:
    module = build_module(load_assembly(NAME, []), outline=True)
    assert sum(p.numel() for p in module.backbone.parameters()) == 1_131_629_216


def test_sample_and_train_from_the_command_line(
    stand_ins: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = as_recipe(tmp_path, stand_ins)
    assert main(["sample", str(recipe), "a red circle", "--out", "x.png"]) == 0
    assert Image.open("x.png").width >= 32
    write_good(tmp_path / "images", 24)
    settings = [*SHORT, f"tasks.text-to-image.data.images.folder={tmp_path / 'images'}"]
    capsys.readouterr()
    assert main(["fit", str(recipe), *settings, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "released.safetensors: the released network" in said
    assert "frozen     text_encoders.t5: " in said
    assert main(["fit", str(recipe), *settings, "--folder", "run"]) == 0
    noted = json.loads(Path("run/environment.json").read_text())["weights"]
    assert noted == {
        "place": str(tmp_path / "released.safetensors"),
        "sha256": weights_hash(tmp_path / "released.safetensors"),
    }
    assert "the released network" in Path("run/log.txt").read_text()
    trained = T2XPipeline.from_pretrained("run", device="cpu")
    first = T2XPipeline.from_recipe(recipe, device="cpu")
    weight = "head.linear.weight"
    moved = trained.module.backbone.get_parameter(weight) - first.module.backbone.get_parameter(weight)
    assert 0 < moved.abs().max() < 1e-3  # two steps from it, not from nothing
    (tmp_path / "released.safetensors").unlink()  # a run needs it no more
    assert main(["sample", "run", "a red circle", "--out", "y.png"]) == 0


def test_another_layout_takes_what_fits_and_names_the_rest(stand_ins: list[str]) -> None:
    """Into a network of our own, without second projections and with C channels out."""
    settings = [s for s in stand_ins if not s.startswith("backbone.window")]
    settings += ["backbone.preset=null", "backbone.window=auto"]
    assembly = load_assembly(NAME, settings)
    module = build_module(assembly)
    start = open_start(assembly, module)
    start.load(module)
    config = reference()[1]
    head = load_released(released(), config).head.linear.weight.unflatten(0, (-1, config["out_channels"]))
    assert torch.equal(module.backbone.head.linear.weight, head[:, : config["in_channels"]].flatten(0, 1))
    said = "\n".join(start.describe())
    assert "left out   backbone.blocks.*.visual_linear0." in said
    assert "fresh      backbone.blocks.*.visual_table" in said
    with pytest.raises(UserError, match="does not hold the whole network"):
        start.check_complete()


class TestFiles:
    def test_a_pytorch_file_does_as_well(self, stand_ins: list[str], tmp_path: Path) -> None:
        plain = {name.removeprefix("model."): tensor for name, tensor in released().items()}
        torch.save({"iteration": 5, "model": plain}, tmp_path / "released.ckpt")
        (tmp_path / "released.safetensors").unlink()
        assembly = load_assembly(NAME, [*stand_ins, f"backbone.weights={tmp_path / 'released.ckpt'}"])
        module = build_module(assembly)
        start = open_start(assembly, module)
        start.check_complete()
        start.load(module)

    def test_a_file_that_could_run_code_is_refused(self, stand_ins: list[str], tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return print, ("it ran",)

        torch.save({"model": Evil()}, tmp_path / "evil.pt")
        assembly = load_assembly(NAME, [*stand_ins, f"backbone.weights={tmp_path / 'evil.pt'}"])
        with pytest.raises(UserError, match="holds more than tensors"):
            open_start(assembly, build_module(assembly))

    def test_the_backbone_alone_and_what_wrappers_add(self, stand_ins: list[str], tmp_path: Path) -> None:
        assembly = load_assembly(NAME, stand_ins)
        module = build_module(assembly)
        weights = {f"module._orig_mod.{n}": 3 * t for n, t in module.backbone.state_dict().items()}
        save_file(weights, tmp_path / "wrapped.safetensors")
        again = load_assembly(NAME, [*stand_ins, f"backbone.weights={tmp_path / 'wrapped.safetensors'}"])
        start = open_start(again, module)
        start.check_complete()
        before = module.backbone.head.linear.weight.detach().clone()
        start.load(module)
        assert torch.equal(module.backbone.head.linear.weight, 3 * before)

    def test_a_file_that_has_changed_since_is_refused(
        self, stand_ins: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A run that was killed before its first checkpoint begins again, with the same file."""
        import shutil

        monkeypatch.chdir(tmp_path)
        recipe = as_recipe(tmp_path, stand_ins)
        write_good(tmp_path / "images", 24)
        settings = [*SHORT, f"tasks.text-to-image.data.images.folder={tmp_path / 'images'}"]
        assert main(["fit", str(recipe), *settings, "--folder", "run"]) == 0
        shutil.rmtree("run/checkpoints")
        save_file({n: 2 * t for n, t in released().items()}, tmp_path / "released.safetensors")
        capsys.readouterr()
        assert main(["fit", str(recipe), *settings, "--resume", "run"]) == 2
        assert "released.safetensors is not what the run began with (sha256 " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("nothing.safetensors", "there is no file nothing.safetensors"),
        ("hf://nobody", "hf://nobody names nothing on the hub; write hf://owner/name/file.safetensors"),
        ("text.txt", "text.txt is no file of weights; their names end in .safetensors, .pt, .pth, .bin, .ckpt"),
    ],
)
def test_mistakes(
    weights: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").touch()
    assert main(["fit", "quickstart", f"backbone.weights={weights}"]) == 2
    assert message in capsys.readouterr().err.replace(str(tmp_path) + "/", "")


def test_a_recipe_without_weights_is_no_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["sample", "text_to_image/folder", "a cat", "--out", str(tmp_path / "x.png")]) == 2
    assert 'there is no run "text_to_image/folder"' in capsys.readouterr().err
