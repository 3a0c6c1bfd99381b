"""Alignment to a pretrained image encoder, against a plain loop over samples, frames and tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.checkpoint import checkpoints_of, materialize, read_checkpoint, step_of
from t2x_core.errors import UserError
from t2x_core.generation import T2XPipeline
from t2x_core.module import T2XModule
from t2x_core.recipe import RepaConfig, dump_yaml, portable, to_plain
from t2x_core.repa import Alignment
from t2x_core.runs import RECIPE_FILE
from t2x_core.training import fit
from t2x_core.training.memory_estimate import saved_bytes
from t2x_core.training.run_folder import TENSORBOARD
from tests.conftest import TINY, TINY_MOVING, TINY_TURNTABLES

NAME = "test_vit.r160_in1k"
RANDOM = (f"diffusion.repa.encoder={NAME}", "diffusion.repa.random_weights=true", "diffusion.repa.width=16")
QUIET = (
    *("logging.sample_every=0", "logging.validate_every=100", "logging.checkpoint_every=2", "logging.samples=1"),
    *("logging.score_samples=0", "logging.final_score_samples=0"),
)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of weights as timm has it."""
    torch.manual_seed(5)
    model = timm.create_model(NAME)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "vit.safetensors")
    return tmp_path / "vit.safetensors"


def plain(
    alignment: Alignment, weights: Path, hidden: Tensor, pixels: Tensor, frames: list[int], h: int, w: int
) -> Any:
    """Cosine similarities, one by one, with an encoder of our own from the file."""
    model = timm.create_model(NAME, num_classes=0, dynamic_img_size=True, img_size=160).eval()
    model.load_state_dict({n: t for n, t in timm.models.load_state_dict(weights).items() if not n.startswith("head")})
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    first, second, third = (alignment.projection[i] for i in (0, 2, 4))
    losses = []
    for sample in range(len(pixels)):
        cosines = []
        for place, frame in enumerate(frames):
            image = torch.nn.functional.interpolate(
                pixels[sample : sample + 1, :, frame], (16 * h, 16 * w), mode="bicubic", antialias=True
            ).clamp(-1, 1)
            with torch.no_grad():
                tokens = model.forward_features(((image + 1) / 2 - mean) / std)[0, model.num_prefix_tokens :]
            for row in range(h):
                for column in range(w):
                    token = hidden[sample, (place * h + row) * w + column]
                    guess = third(torch.nn.functional.silu(second(torch.nn.functional.silu(first(token)))))
                    feature = tokens[row * w + column]
                    cosines.append(guess @ feature / guess.norm() / feature.norm())
        losses.append(alignment.config.weight * (1 - torch.stack(cosines).mean()))
    return torch.stack(losses)


@pytest.mark.parametrize(("frames", "seen"), [(1, [0]), (5, [0, 4]), (3, [0, 1, 2])])
def test_it_is_a_plain_loop(weights: Path, frames: int, seen: list[int]) -> None:
    """An image; a clip of which the codec makes two frames out of five; views."""
    config = RepaConfig(encoder=NAME, weights=weights, width=24, weight=0.7)
    alignment = Alignment(config, width=32, depth=6)
    assert alignment.block == 1
    pixels, hidden = torch.rand(2, 3, frames, 24, 32) * 2 - 1, torch.randn(2, len(seen) * 3 * 4, 32, requires_grad=True)
    found = alignment(hidden, pixels, (len(seen), 3, 4))
    wanted = plain(alignment, weights, hidden, pixels, seen, 3, 4)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    mine, theirs = (torch.autograd.grad(x.sum(), hidden)[0] for x in (found, wanted))
    torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


def test_a_step_with_it_is_estimated() -> None:
    """In which tensors have no content."""
    module = build(*RANDOM)
    batch = build_data(load_assembly("quickstart", [*TINY, *QUIET]), module).example("text-to-image", 0)
    assert saved_bytes(module, batch, "32-true") > saved_bytes(build(), batch, "32-true") > 0


def test_features_of_a_finer_grid_than_the_encoders_are_interpolated(weights: Path) -> None:
    """It was trained on 10 × 10 patches: a grid of 20 × 40 tokens has features of 5 × 10 patches."""
    encoder = Alignment(RepaConfig(encoder=NAME, weights=weights), 32, 2).encoder.part
    image = torch.rand(1, 3, 80, 160) * 2 - 1
    coarse = encoder(image, (5, 10)).transpose(1, 2).unflatten(2, (5, 10))
    fine = torch.nn.functional.interpolate(coarse, (20, 40), mode="bilinear").flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder(image, (20, 40)), fine)


def build(*settings: str, recipe: str = "quickstart", tiny: tuple[str, ...] = TINY) -> T2XModule:
    return build_module(load_assembly(recipe, [*tiny, *QUIET, *settings]))


def run(folder: Path, *settings: str, resume: bool = False, **recipe: Any) -> T2XModule:
    tiny, name = recipe.get("tiny", TINY), recipe.get("recipe", "quickstart")
    assembly = load_assembly(name, [*tiny, *QUIET, *settings])
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    module = build_module(assembly)
    fit(assembly, module, build_data(assembly, module), folder, resume=resume)
    return module


def test_a_step_adds_it_to_the_loss_and_reports_it() -> None:
    with_it, without = build(*RANDOM), build()
    assembly = load_assembly("quickstart", TINY)
    batch = build_data(assembly, without).example("text-to-image", 0)
    found, bare = with_it.training_step(batch, 0), without.training_step(batch, 0)
    assert torch.equal(found["losses"], bare["losses"])  # the same weights, and the same figure
    torch.testing.assert_close(found["loss"], found["losses"].mean() + found["terms"]["repa"].mean())
    assert 0 < found["terms"]["repa"].mean() <= 1
    found["loss"].backward()
    assert with_it.alignment is not None
    assert all(p.grad is not None for p in with_it.alignment.projection.parameters())
    assert with_it.alignment.encoder.part.model.blocks[0].mlp.fc1.weight.grad is None
    with_it.eval()
    assert "repa" not in with_it.training_step(batch, 0)["terms"]


def test_it_stops_and_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    settings = (*RANDOM, "diffusion.repa.stop_step=3")
    every = ("trainer.max_steps=4", "logging.checkpoint_every=1", "logging.keep_checkpoints=4")
    whole = run(tmp_path / "whole", *settings, *every)
    run(tmp_path / "parts", *settings, "trainer.max_steps=2")
    parts = run(tmp_path / "parts", *settings, "trainer.max_steps=4", resume=True)
    for name, tensor in whole.stored().items():
        assert torch.equal(tensor, parts.stored()[name]), name
    name = "alignment.projection.0.weight"
    saved = {step_of(path): read_checkpoint(path)["state_dict"] for path in checkpoints_of(tmp_path / "whole")}
    second, third, fourth = (materialize({name: saved[step][name]})[name] for step in (2, 3, 4))
    assert torch.equal(third, fourth)
    assert not torch.equal(second, third)


def test_its_projection_is_saved_and_its_encoder_named(tmp_path: Path, weights: Path) -> None:
    own = (f"diffusion.repa.encoder={NAME}", f"diffusion.repa.weights={weights}")
    module = run(tmp_path / "run", *own, "trainer.max_steps=2")
    content = read_checkpoint(checkpoints_of(tmp_path / "run")[-1])
    names = [name for name in content["state_dict"] if name.startswith("alignment.")]
    assert len(names) == 6
    assert all(name.startswith("alignment.projection.") for name in names)
    assert content["alignment"]["diffusion.repa"]["origin"] == str(weights)
    assert module.alignment is not None
    assert str(weights) not in dump_yaml(portable(load_assembly("quickstart", [*TINY, *own]).recipe))

    other = timm.models.load_state_dict(weights)
    save_file({name: tensor + 1 for name, tensor in other.items()}, weights)
    with pytest.raises(UserError, match=r"weights of diffusion\.repa .* are not those"):
        build(*own).on_load_checkpoint({**content, "state_dict": materialize(content["state_dict"])})


@pytest.mark.parametrize(
    ("recipe", "tiny"),
    [
        ("quickstart", TINY),
        ("text_to_video/quickstart", TINY_MOVING),
        ("text_to_multiview/quickstart", TINY_TURNTABLES),
    ],
)
def test_two_steps_of_each_task(tmp_path: Path, recipe: str, tiny: tuple[str, ...]) -> None:
    module = run(tmp_path, *RANDOM, "trainer.max_steps=2", recipe=recipe, tiny=tiny)
    before = build(*RANDOM, "trainer.max_steps=2", recipe=recipe, tiny=tiny).stored()
    for name, tensor in module.stored().items():
        assert name.partition(".")[0] != "alignment" or not torch.equal(tensor, before[name]), name
    (task,) = module.tasks
    events = EventAccumulator(str(tmp_path / TENSORBOARD)).Reload()
    found = [event.value for event in events.Scalars(f"loss/{task}/repa")]
    assert len(found) == 2
    assert all(0 < value < 1 for value in found)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((f"diffusion.repa.encoder={NAME}", "cache.folder=there"), "alignment looks at pixels"),
        (("diffusion.repa.encoder=vit_basse_patch14_dinov2",), "timm has no encoder"),
        (
            ("diffusion.repa.encoder=resnet18", "diffusion.repa.random_weights=true"),
            "resnet18 is no vision",
        ),
        (("diffusion.repa.encoder=test_vit2", "diffusion.repa.weights=none.safetensors"), "there is no file"),
        (("diffusion.repa.weights=weights.pth",), "is no safetensors file"),
        ((*RANDOM, "diffusion.repa.block=5"), "there is no block 5"),
        ((*RANDOM, "diffusion.repa.weights=a.safetensors"), "weights are named, and random ones wanted"),
    ],
)
def test_a_mistake_is_one_line(settings: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        build(*settings)
    assert "\n" not in str(raised.value)


def test_weights_of_another_encoder_are_refused(weights: Path) -> None:
    with pytest.raises(UserError, match=r"does not fit test_vit2"):
        build("diffusion.repa.encoder=test_vit2", f"diffusion.repa.weights={weights}")


def test_a_run_with_it_is_sampled_without_it(tmp_path: Path) -> None:
    settings = [*TINY, *QUIET, *RANDOM, "trainer.max_steps=2"]
    run(tmp_path, *RANDOM, "trainer.max_steps=2")
    (tmp_path / RECIPE_FILE).write_text(dump_yaml(to_plain(load_assembly("quickstart", settings).recipe)))
    pipeline = T2XPipeline.from_pretrained(tmp_path, device="cpu")
    assert pipeline.module.alignment is None
    assert pipeline("a red circle", steps=2).pixels.isfinite().all()
