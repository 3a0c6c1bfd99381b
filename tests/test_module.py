import math

import pytest
import torch

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.encoders.encoder_config import IdentityConfig
from t2x_core.encoders.identity import IdentityCodec
from t2x_core.errors import UserError
from t2x_core.frozen import Codec
from t2x_core.optim import build_optimizer, learning_rate_factor
from t2x_core.recipe import OptimizerConfig
from t2x_core.tensor_files import check_shapes
from t2x_core.types import Batch, Bucket, SampleKey
from tests.conftest import TINY


def batch_of(assembly, module, slots, step=0):
    source = build_data(assembly, module).modules["text-to-image"].train_source()
    return source.collate([source[SampleKey("text-to-image", 0, 10 + s, step, s)] for s in slots])


def test_the_seed_gives_the_weights(tiny):
    one, same = build_module(tiny).state_dict(), build_module(tiny).state_dict()
    other = build_module(load_assembly("quickstart", [*TINY, "seed=1"])).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["backbone.patch_embedding.weight"], other["backbone.patch_embedding.weight"])


def test_what_is_random_about_a_sample_depends_on_its_key_alone(tiny):
    module = build_module(tiny)
    batch = batch_of(tiny, module, range(4))
    whole = module.draw(batch.keys, batch.pixels)
    part = module.draw(batch.keys[2:3], batch.pixels[2:3])
    assert torch.equal(whole.noise[2], part.noise[0])
    assert whole.t[2] == part.t[0]
    later = module.draw([key._replace(step=1) for key in batch.keys], batch.pixels)
    again = module.draw([key._replace(attempt=1) for key in batch.keys], batch.pixels)
    for other in (later, again):
        assert not torch.isclose(other.t, whole.t).any()
        assert (other.noise - whole.noise).abs().mean() > 0.5


def test_times_and_dropout_follow_the_recipe():
    assembly = load_assembly(
        "quickstart", [*TINY, "diffusion.condition_dropout=0.25", "diffusion.timesteps.pure_noise=0.2"]
    )
    module = build_module(assembly)
    keys = [SampleKey("text-to-image", 0, 0, step, slot) for step in range(50) for slot in range(40)]
    draws = module.draw(keys, torch.zeros(len(keys), 1, 1, 1, 1))
    logits = torch.logit(draws.t.double())
    config = assembly.recipe.diffusion.timesteps
    pure = draws.t == 1
    assert pure.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert logits[~pure].mean().item() == pytest.approx(config.mean, abs=0.1)
    assert logits[~pure].std().item() == pytest.approx(config.std, abs=0.1)
    assert draws.dropped.float().mean().item() == pytest.approx(0.25, abs=0.04)
    assert draws.noise.std().item() == pytest.approx(1, abs=0.05)


def test_times_are_shifted_as_the_recipe_says():
    """Esser et al. 2024, eq. 23, on the numbers that an unshifted run draws from the same keys."""
    keys = [SampleKey("text-to-image", 0, 0, step, slot) for step in range(10) for slot in range(40)]
    latents = torch.zeros(len(keys), 1, 1, 1, 1)
    plain, shifted = (
        build_module(load_assembly("quickstart", [*TINY, f"diffusion.timesteps.shift={shift}"])).draw(keys, latents).t
        for shift in (1.0, 4.0)
    )
    torch.testing.assert_close(shifted, 4 * plain / (1 + 3 * plain))
    assert (shifted - plain).mean() > 0.1


@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 64, 64), (4, 32, 48)])
def test_an_automatic_shift_is_that_of_the_bucket(shape):
    """Patches of 4: 16 to 384 tokens; the same numbers as by hand from the same keys."""
    keys = [SampleKey("text-to-image", 0, 0, step, slot) for step in range(10) for slot in range(40)]
    latents = torch.zeros(len(keys), 1, *shape)
    factor = math.exp(0.5 + (1.15 - 0.5) / (4096 - 256) * (math.prod(shape) / 16 - 256))
    automatic, by_hand = (
        build_module(load_assembly("quickstart", [*TINY, f"diffusion.timesteps.shift={shift}"])).draw(keys, latents).t
        for shift in ("auto", factor)
    )
    assert torch.equal(automatic, by_hand)
    assert automatic[automatic < 1].mean() > 0.5


def test_the_seed_of_the_recipe_gives_the_noise_the_times_and_the_dropout(tiny):
    keys = [SampleKey("text-to-image", 0, 0, 1, slot) for slot in range(200)]
    latents = torch.zeros(len(keys), 3, 1, 4, 4)
    one = build_module(tiny).draw(keys, latents)
    other = build_module(load_assembly("quickstart", [*TINY, "seed=1"])).draw(keys, latents)
    same = build_module(tiny).draw(keys, latents)
    assert torch.equal(one.noise, same.noise)
    assert torch.equal(one.t, same.t)
    assert not (one.noise == other.noise).any()
    assert not (one.t == other.t)[one.t < 1].any()  # a share of all is pure noise
    assert not torch.equal(one.dropped, other.dropped)


def test_noise_time_and_dropout_of_a_sample_are_unrelated(tiny):
    keys = [SampleKey("text-to-image", 0, 0, step, slot) for step in range(100) for slot in range(40)]
    draws = build_module(tiny).draw(keys, torch.zeros(len(keys), 1, 1, 2, 2))
    columns = torch.cat((draws.noise.flatten(1), draws.t[:, None], draws.dropped[:, None].float()), 1)
    off = torch.corrcoef(columns.T.double()) - torch.eye(6)
    assert off.abs().max() < 5 / math.sqrt(len(keys))


def test_a_perfect_clean_prediction_costs_nothing_at_any_time(tiny):
    """Below the smallest divisor, too, and there is no way down from it; a sampler follows it to its end."""
    module = build_module(load_assembly("quickstart", [*TINY, "diffusion.prediction=clean"]))
    batch = batch_of(tiny, module, range(4))
    module.times = lambda u, shift: torch.tensor([1e-4, 0.01, 0.04, 0.5])
    answer = batch.pixels.clone().requires_grad_()
    module.predict = lambda latents, t, conditioning, cache=None, capture=(): (answer, {})
    loss = module.training_step(batch, 0)["losses"]
    assert loss.max() < 1e-8
    module.training_step(batch, 0)["loss"].backward()
    assert answer.grad.abs().max() < 1e-4
    for t in (1.0, 0.02, 1e-4):
        weight = torch.full((4,), t)
        noised = module.path.corrupt(batch.pixels, torch.randn_like(batch.pixels), weight)
        x0 = noised.latents - t * module.velocity(noised.latents, weight, None)
        torch.testing.assert_close(x0, batch.pixels, atol=1e-5, rtol=0)


def test_the_loss_is_one_value_a_sample_and_does_not_depend_on_the_batch(tiny):
    module = build_module(tiny)
    torch.nn.init.normal_(module.backbone.head.linear.weight, std=0.1)
    batch = batch_of(tiny, module, range(4))
    whole = module.training_step(batch, 0)
    assert whole["losses"].shape == (4,)
    for i in range(4):
        torch.testing.assert_close(module.training_step(batch.select([i]), 0)["losses"][0], whole["losses"][i])
    torch.testing.assert_close(whole["loss"], whole["losses"].mean())


def test_an_untrained_network_has_the_loss_of_predicting_zero():
    """The head starts at zero: a velocity of 0 costs the mean square of ε - x₀, which is 1 + E[x₀²] for unit noise."""
    velocity = ("diffusion.prediction=velocity", "tasks.text-to-image.loss.weighting=velocity")
    assembly = load_assembly("quickstart", [*TINY, *velocity])
    module = build_module(assembly)
    batch = batch_of(assembly, module, range(64))
    expected = 1 + batch.pixels.square().mean()
    assert module.training_step(batch, 0)["loss"].item() == pytest.approx(expected.item(), rel=0.03)


def test_dropped_conditions_do_not_reach_the_network(tiny):
    module = build_module(tiny).eval()
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.1)
    batch = batch_of(tiny, module, range(2))
    other = type(batch)(batch.task, ("something else", "entirely"), batch.keys, batch.pixels)
    t = torch.tensor([0.5, 0.5])

    def velocity(batch, dropped):
        encoded = module.encode(batch)
        return module.velocity(encoded.latents, t, module.condition(encoded, torch.tensor(dropped)))

    with torch.no_grad():
        assert torch.equal(velocity(batch, [True, True]), velocity(other, [True, True]))
        kept = (velocity(batch, [True, False]) - velocity(other, [True, False])).abs().amax((1, 2, 3, 4))
    assert kept[0] == 0
    assert kept[1] > 1e-4


def test_everything_that_is_trained_gets_a_gradient(tiny):
    module = build_module(tiny)
    for _, p in module.trainable():
        torch.nn.init.normal_(p, std=0.1)
    module.training_step(batch_of(tiny, module, range(40)), 0)["loss"].backward()  # 40: some conditions are dropped
    without = [name for name, p in module.trainable() if p.grad is None or not p.grad.any()]
    assert without == []


def test_weight_decay_leaves_biases_norms_and_tables_alone(tiny):
    module = build_module(tiny)
    optimizer = build_optimizer(module.trainable(), OptimizerConfig(weight_decay=0.3))
    names = {id(p): name for name, p in module.trainable()}
    decayed = {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    plain = {names[id(p)] for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]}
    assert decayed | plain == set(names.values())
    assert "backbone.blocks.0.mlp.0.weight" in decayed
    assert all(name.endswith("weight") for name in decayed)
    for name in ("backbone.blocks.0.table", "backbone.head.linear.bias", "backbone.blocks.0.attention.q_norm.weight"):
        assert name in plain
    tables = {"text_encoders.bytes.byte.weight", "text_encoders.bytes.position", "adapters.text-to-image.no_caption"}
    assert tables <= plain
    matrices = (torch.nn.Linear, torch.nn.MultiheadAttention)
    owned = {
        f"{owner}.{name}"
        for owner, part in module.named_modules()
        if isinstance(part, matrices)
        for name, p in part.named_parameters(recurse=False)
        if p.ndim > 1
    }
    assert decayed == owned


def test_the_learning_rate_warms_up_and_falls_as_a_cosine():
    config = OptimizerConfig(warmup_steps=10, schedule="cosine", final_lr_ratio=0.1)
    factors = [learning_rate_factor(step, config, 110) for step in range(111)]
    assert factors[0] == 0.1
    assert factors[9] == factors[10] == 1
    assert factors[60] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert factors[110] == pytest.approx(0.1)
    assert learning_rate_factor(100, OptimizerConfig(warmup_steps=0, schedule="constant"), 100) == 1


def test_a_checkpoint_of_another_model_is_refused_by_name(tiny):
    shapes = {name: p.shape for name, p in build_module(tiny).trainable()}
    weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
    check_shapes(shapes, weights)
    del weights["backbone.head.linear.bias"]
    weights["backbone.head.linear.weight"] = torch.zeros(1, 2)
    weights["extra"] = torch.zeros(1)
    with pytest.raises(UserError) as caught:
        check_shapes(shapes, weights)
    for part in ("backbone.head.linear.bias is missing", "extra is not of this model", "is (1, 2), not (48, 32)"):
        assert part in str(caught.value)


def test_views_are_images_by_themselves_to_the_codec(tiny):
    """A codec that looks along the frames sees one at a time, on the way in and on the way out."""

    class Mixing(IdentityCodec):
        frame_factor = 4

        def encode(self, pixels):
            return (pixels - pixels.mean(2, keepdim=True))[:, :, ::4]  # of one frame alone: nothing is left

        def decode(self, latents):
            return latents.cumsum(2).repeat_interleave(4, 2)[:, :, 3:]

    module = build_module(tiny)
    module.codec = Codec(Mixing(IdentityConfig()))
    pixels = torch.rand(2, 3, 5, 8, 8)
    batch, bucket = Batch("text-to-image", ("a", "b"), pixels=pixels), Bucket(5, 8, 8)
    assert module.encode(batch).latents.abs().max() > 0.1
    assert module.latent_shape(bucket, "text-to-image") == (3, 2, 8, 8)
    module.tasks["text-to-image"].separate_frames = True
    assert module.encode(batch).latents.abs().max() == 0
    assert torch.equal(module.decode(pixels, "text-to-image"), pixels)
    assert module.latent_shape(bucket, "text-to-image") == (3, 5, 8, 8)
