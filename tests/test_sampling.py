"""Negative prompts, callbacks, and memory."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from t2x_core import keyed, sampling
from t2x_core.cli.sample import PRECISIONS
from t2x_core.errors import UserError
from t2x_core.sampling import batch_size, bytes_per_sample, offload_blocks
from t2x_core.types import LatentShape
from tests.conftest import TINY_MOVING, random_pipeline


def test_the_command_knows_the_precisions_without_torch():
    assert tuple(sampling.PRECISIONS) == PRECISIONS


@torch.no_grad()
def test_a_negative_prompt_is_what_guidance_leads_away_from():
    """Held against a loop of Euler's method with classifier-free guidance, written out."""
    pipeline = random_pipeline()
    module, shape = pipeline.module, LatentShape(3, 1, 16, 16)
    made = pipeline("a red circle", 5, negative="a blue ring", name="euler", steps=4, guidance=3.0, shift=1.0).pixels

    def conditioning(prompt):
        batch = module.with_text(pipeline.assembly.task().conditions([prompt]))
        return module.conditionings(module.encode(batch), shape)[0]

    wanted, unwanted = conditioning("a red circle"), conditioning("a blue ring")
    x = keyed.normal([keyed.key(5, "sample")], shape)
    for t in (1.0, 0.75, 0.5, 0.25):
        time = torch.tensor([t])
        to, away = ((x - module.predict(x, time, part)[0]) / t for part in (wanted, unwanted))  # it predicts x₀
        x = x - 0.25 * (away + 3.0 * (to - away))
    torch.testing.assert_close(made, x.clamp(-1, 1), atol=1e-5, rtol=1e-5)
    assert (pipeline("a red circle", 5, name="euler", steps=4, guidance=3.0).pixels - made).abs().max() > 1e-3


def test_each_prompt_has_its_negative_one(caplog):
    pipeline = random_pipeline()
    both = pipeline(["a", "b"], 3, negative=["c", "d"], exact=True).pixels
    assert torch.equal(both[1:], pipeline("b", 4, negative="d", exact=True).pixels)
    with pytest.raises(UserError, match="2 prompts but 1 negative"):
        pipeline(["a", "b"], 3, negative=["c"])
    assert not caplog.records
    pipeline("a", negative="b", guidance=1.0)
    assert "the negative prompt does nothing" in caplog.text


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp-2m", "unipc"])
def test_the_callback_sees_each_step_of_each_batch(name):
    pipeline, seen = random_pipeline(), []
    samples = pipeline(["a", "b", "c"], 0, name=name, steps=3, batch_size=2, callback=lambda *said: seen.append(said))
    assert [said[:2] for said in seen] == [(1, 3), (2, 3), (3, 3)] * 2
    assert [len(latents) for *_, latents in seen] == [2] * 3 + [1] * 3
    torch.testing.assert_close(seen[2][2].clamp(-1, 1), samples.pixels[:2])  # the codec of pixels changes nothing


class Peak(TorchDispatchMode):
    """Bytes of the tensors that operations have made and that are alive, at most."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.most = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        import weakref

        made = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in known:
                size = tensor.untyped_storage().nbytes()
                self.alive += size
                weakref.finalize(tensor.untyped_storage(), self._gone, size)
        self.most = max(self.most, self.alive)
        return made

    def _gone(self, size: int) -> None:
        self.alive -= size


@pytest.mark.parametrize("attention", ["proxy", "fused", "dense"])
def test_the_estimate_of_memory_is_above_what_is_taken_and_of_its_size(attention):
    data = "tasks.text-to-video.data.moving-shapes"
    sizes = (f"{data}.size=32", f"{data}.frames=8", "backbone.width=64")
    pipeline = random_pipeline("text_to_video/quickstart", (*TINY_MOVING, *sizes, f"backbone.attention={attention}"))
    taken = []
    for count in (2, 4):
        request = pipeline.request(["a red circle"] * count, batch_size=count, steps=2)
        with Peak() as peak:
            list(pipeline.stream(request))
        taken.append(peak.most)
    each = (taken[1] - taken[0]) / 2
    assert each <= bytes_per_sample(pipeline.module, request) < 10 * each


def test_the_batch_is_what_memory_allows(monkeypatch):
    pipeline = random_pipeline()
    request = pipeline.request(["a"] * 10)
    room = bytes_per_sample(pipeline.module, request) / sampling.SHARE
    for samples, wanted in ((100, 5), (4.5, 4), (3.5, 3), (2.5, 2), (0.1, 1)):  # 10 are 5 + 5, or 4 + 4 + 2 …
        monkeypatch.setattr(sampling, "free_memory", lambda samples=samples: int(room * samples))
        assert batch_size(pipeline.module, request) == wanted
    assert batch_size(pipeline.module, pipeline.request(["a"] * 10, exact=True)) == 1
    assert batch_size(pipeline.module, pipeline.request(["a"] * 10, batch_size=7)) == 7


def test_a_batch_that_does_not_fit_is_halved_and_then_the_codec_saves(monkeypatch, caplog):
    pipeline, tiled = random_pipeline(), []
    wanted = pipeline(["a"] * 6, batch_size=1).pixels
    codec, decode = pipeline.module.codec.part, pipeline.module.codec.part.decode

    def small(latents):
        if len(latents) > 1 or not tiled:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(latents)

    monkeypatch.setattr(codec, "decode", small)
    monkeypatch.setattr(type(codec), "save_memory", lambda self: not tiled and not tiled.append(True))
    torch.testing.assert_close(pipeline(["a"] * 6, batch_size=4).pixels, wanted, atol=1e-4, rtol=1e-4)
    assert [record.message for record in caplog.records] == [
        "a batch of 4 does not fit into the memory: 2 at once",
        "a batch of 2 does not fit into the memory: 1 at once",
        "the memory is short: the codec works in tiles",
    ]
    monkeypatch.setattr(codec, "decode", lambda latents: tiled.clear() or small(latents))
    monkeypatch.setattr(type(codec), "save_memory", lambda self: False)
    with pytest.raises(UserError, match="1 sample does not fit into the memory; ask for smaller ones"):
        pipeline("a")


def test_off_loaded_blocks_make_the_same_image_and_one_is_there_at_a_time():
    plain, pipeline = random_pipeline(), random_pipeline()
    wanted = plain("a red circle", 3).pixels
    offload_blocks(pipeline.module, torch.device("cpu"))
    home = [{p.data_ptr() for p in block.parameters()} for block in pipeline.module.backbone.blocks]
    away = []

    def look(block, inputs):
        now = [{p.data_ptr() for p in block.parameters()} for block in pipeline.module.backbone.blocks]
        away.append([i for i, pointers in enumerate(now) if pointers != home[i]])

    for block in pipeline.module.backbone.blocks:
        block.register_forward_pre_hook(look)
    assert torch.equal(pipeline("a red circle", 3).pixels, wanted)
    assert away == [[0], [1]] * (len(away) // 2)
    assert [{p.data_ptr() for p in block.parameters()} for block in pipeline.module.backbone.blocks] == home
    names = [set(module.module.state_dict()) for module in (plain, pipeline)]
    assert names[0] == names[1]


def test_precision():
    pipeline = random_pipeline()
    exact, bf16 = (pipeline("a red circle", 3, precision=p).pixels for p in ("32-true", "bf16"))
    assert (exact - bf16).abs().max() > 0
    assert (exact - bf16).abs().mean() < 0.05
    for precision, said in (("fp16", "fp16 needs a GPU"), ("8-bit", 'no precision "8-bit"')):
        with pytest.raises(UserError, match=said):
            pipeline("a", precision=precision)


@pytest.mark.slow
def test_a_compiled_network_makes_the_same_image():
    plain, pipeline = random_pipeline(), random_pipeline()
    sampling.compile_blocks(pipeline.module)
    for count in (1, 3):
        compiled, wanted = (p(["a red circle"] * count, 3).pixels for p in (pipeline, plain))
        torch.testing.assert_close(compiled, wanted, atol=1e-4, rtol=1e-4)
