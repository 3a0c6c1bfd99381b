"""What the interfaces promise to the authors of plugins, end to end: controls, text, captured tokens, batches."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from t2x_core.assembly import build_module, load_assembly
from t2x_core.backbone import ConditioningCache, PTDiT, PTDiTConfig
from t2x_core.cli.main import main
from t2x_core.conditioning import TextConditioning
from t2x_core.data.loader import check_batch
from t2x_core.frozen import Codec
from t2x_core.interfaces import LatentCodec, ModelContext
from t2x_core.types import (
    Batch,
    Bucket,
    Conditioning,
    ConditioningDims,
    LatentShape,
    SampleKey,
    TextDims,
    TextTokens,
)
from tests.conftest import TINY
from tests.package_path import add_package
from tests.test_module import batch_of

NAME = "text-to-image"


class Halves(LatentCodec):
    """Means of 2×2 pixels, three channels."""

    channels, spatial_factor = 3, 2

    def encode(self, pixels):
        return F.avg_pool3d(pixels, (1, 2, 2))

    def decode(self, latents):
        return latents.repeat_interleave(2, -1).repeat_interleave(2, -2)


def test_a_control_goes_through_the_codec_to_the_adapter_and_the_network(tiny, monkeypatch):
    module = build_module(tiny)
    context = ModelContext({"bytes": TextDims(16)}, 3)
    module.codec = Codec(Halves())
    module.adapters[NAME] = TextConditioning(context, controls=["edges"])
    config = replace(module.backbone.config, dims=replace(module.adapters[NAME].dims), patch_size=2)
    module.backbone = PTDiT(config)
    monkeypatch.setattr(type(module.tasks[NAME]), "encoded_controls", ("edges",))
    edges = torch.rand(2, 3, 1, 16, 16) * 2 - 1
    batch = replace(batch_of(tiny, module, range(2)), controls={"edges": edges, "other": edges})
    encoded = module.encode(batch)
    assert set(encoded.encoded_controls) == {"edges"}
    assert set(encoded.controls) == {"other"}
    means = sum(edges[..., y::2, x::2] for y, x in product((0, 1), (0, 1))) / 4
    torch.testing.assert_close(encoded.encoded_controls["edges"], means)
    conditioning, null = module.conditionings(encoded, LatentShape(*encoded.latents.shape[1:]))
    assert torch.equal(conditioning.concat, encoded.encoded_controls["edges"])
    assert torch.equal(null.concat, conditioning.concat)  # what is dropped is the caption
    seen = []
    module.backbone.patch_embedding.register_forward_pre_hook(lambda _, args: seen.append(args[0].sum()))
    losses = [module.training_step(replace(batch, controls={"edges": e}), 0)["loss"] for e in (edges, -edges)]
    assert seen[0] != seen[1]
    assert all(loss.isfinite() for loss in losses)
    with pytest.raises(Exception, match='there is no control "edges" with the samples'):
        module.encode(replace(batch, controls={}))


def test_the_empty_prompt_stands_for_no_caption():
    assembly = load_assembly("quickstart", [*TINY, f"tasks.{NAME}.conditioning.null=empty"])
    module = build_module(assembly).eval()
    batch = module.encode(batch_of(assembly, module, range(3)))
    shape = LatentShape(*batch.latents.shape[1:])
    _, null = module.conditionings(batch, shape)
    empty, _ = module.conditionings(replace(batch, captions=("",) * 3, text={}), shape)
    valid = null.text_mask.sum(1)
    assert torch.equal(valid, empty.text_mask.sum(1))
    for i, n in enumerate(valid.tolist()):
        torch.testing.assert_close(null.text[i, :n], empty.text[i, :n])
    torch.testing.assert_close(null.vector, empty.vector)
    assert not any("no_caption" in name for name, _ in module.named_parameters())


def test_an_adapter_sees_all_text_encoders(tiny):
    more = ["text_encoders.second.name=bytes", "text_encoders.second.dim=24", "text_encoders.second.depth=0"]
    assembly = load_assembly("quickstart", [*TINY, *more])
    module = build_module(assembly)
    assert set(module.encoders()) == {"bytes", "second"}
    batch = module.encode(batch_of(assembly, module, range(2)))
    given = module.encode_text(replace(batch, text=module.tokenizer(batch.captions)))
    conditioning, _ = module.conditionings(batch, LatentShape(*batch.latents.shape[1:]))
    first = given["bytes"].tokens.shape[1]
    assert conditioning.text.shape == (2, first + given["second"].tokens.shape[1], 24)
    torch.testing.assert_close(conditioning.text[:, :first, :16], given["bytes"].tokens)
    assert not conditioning.text[:, :first, 16:].any()
    torch.testing.assert_close(conditioning.text[:, first:], given["second"].tokens)
    assert torch.equal(conditioning.text_mask, torch.cat([given["bytes"].mask, given["second"].mask], 1))
    assert conditioning.vector.shape == (2, 16 + 24)
    module.training_step(batch, 0)["loss"].backward()
    assert {n.split(".")[1] for n, p in module.named_parameters() if n.startswith("text_enc")} == {"bytes", "second"}


def test_an_encoder_that_pools_itself_has_its_own_vector():
    context = ModelContext({"a": TextDims(4), "b": TextDims(6, pooled=5)}, 3)
    adapter = TextConditioning(context)
    text = {
        "a": TextTokens(torch.randn(2, 3, 4), torch.tensor([[True, True, False], [True, False, False]])),
        "b": TextTokens(torch.randn(2, 2, 6), torch.ones(2, 2, dtype=torch.bool), torch.randn(2, 5)),
    }
    found = adapter(Batch(NAME, ("x", "y")), text, LatentShape(3, 1, 4, 4))
    assert adapter.dims == ConditioningDims(text=6, vector=9)
    torch.testing.assert_close(found.vector[:, 4:], text["b"].pooled)
    torch.testing.assert_close(found.vector[0, :4], text["a"].tokens[0, :2].mean(0))
    torch.testing.assert_close(found.vector[1, :4], text["a"].tokens[1, 0])


@pytest.mark.parametrize("attention", ["proxy", "fused", "dense"])
def test_captured_tokens_stand_row_by_row(attention):
    """Against the output of the block itself, put into the order of the grid by a plain loop over the windows."""
    torch.manual_seed(0)
    config = PTDiTConfig(in_channels=3, width=32, depth=2, heads=2, patch_size=1, attention=attention, window=(1, 2, 3))
    network = PTDiT(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    taken = {}
    for k, block in enumerate(network.blocks):
        block.register_forward_hook(lambda _, args, out, k=k: taken.__setitem__(k, out))
    f, h, w = 2, 4, 6
    with torch.no_grad():
        _, hidden = network(torch.randn(2, 3, f, h, w), torch.rand(2), Conditioning(), capture={0, 1})
    order = [
        (z * h + y) * w + x
        for z in range(f)
        for top, left in product(range(0, h, 2), range(0, w, 3))
        for y, x in product(range(top, top + 2), range(left, left + 3))
    ]
    if attention == "dense":
        order = list(range(f * h * w))
    for k in (0, 1):
        expected = torch.empty_like(taken[k])
        expected[:, order] = taken[k]
        assert torch.equal(hidden[k], expected)


def good_batch() -> Batch:
    keys = tuple(SampleKey("a", 0, i, 0, i) for i in range(2))
    return Batch("a", ("x", "y"), keys, torch.zeros(2, 3, 1, 4, 4), {"n": torch.zeros(2)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": ()}, "the batch has not the keys that were asked for"),
        ({"task": "b"}, 'the batch is of the task "b", not "a"'),
        ({"captions": ("x",)}, "there are 1 captions for 2 samples"),
        ({"pixels": torch.zeros(2, 3, 1, 4, 8), "shape": ()}, r"samples of bucket 0 are \(1, 4, 4\).*\(1, 4, 8\)"),
        ({"pixels": None}, "the batch has neither pixels nor latents"),
        ({"pixels": torch.zeros(2, 1, 1, 4, 4)}, r"pixels are float32 \(2, 1, 1, 4, 4\), not floating-point"),
        ({"pixels": torch.zeros(2, 3, 1, 4, 4, dtype=torch.uint8)}, "pixels are uint8"),
        ({"pixels": torch.full((2, 3, 1, 4, 4), 2.0)}, "pixels go from 2 to 2; they must be finite"),
        ({"pixels": torch.full((2, 3, 1, 4, 4), float("nan"))}, "pixels go from nan to nan"),
        ({"controls": {"edge": torch.full((2, 3, 1, 4, 4), -3.0)}}, "edge go from -3 to -3"),
        ({"controls": {"edge": torch.zeros(1, 3, 1, 4, 4)}}, r"edge are float32 \(1, 3, 1, 4, 4\)"),
        ({"extra": {"n": torch.zeros(3)}}, 'extra "n" has 3 entries for 2 samples'),
    ],
)
def test_a_batch_that_is_not_what_was_asked_for_is_refused(change, message):
    good = good_batch()
    check_batch(good, Bucket(1, 4, 4, 2), good.keys, values=True)
    with pytest.raises(ValueError, match=message):
        check_batch(replace(good, **change), Bucket(1, 4, 4, 2), good.keys, values=True)


def test_what_is_no_batch_is_refused():
    with pytest.raises(TypeError, match="it must return a Batch, not dict"):
        check_batch({}, Bucket(1, 4, 4, 2), good_batch().keys, values=True)


def test_a_cache_of_another_conditioning_or_shape_is_refused():
    config = PTDiTConfig(
        in_channels=3, width=32, depth=1, heads=2, patch_size=1, attention="fused", dims=ConditioningDims(vector=4)
    )
    network, cache = PTDiT(config), ConditioningCache()
    one, same = Conditioning(vector=torch.zeros(1, 4)), Conditioning(vector=torch.zeros(1, 4))
    x, t = torch.zeros(1, 3, 1, 4, 4), torch.ones(1)
    network(x, t, one, cache)
    network(x, t, one, cache)
    for latents, other in ((x, same), (torch.zeros(1, 3, 1, 4, 8), one)):
        with pytest.raises(ValueError, match="serves one conditioning and one shape of latents"):
            network(latents, t, other, cache)


CODEC_CONFIG = """
from dataclasses import dataclass
from t2x_core.recipe import CodecConfig

@dataclass(frozen=True, kw_only=True)
class QuarterConfig(CodecConfig):
    name: str = "quarter"
    spatial_factor = 1
    frame_factor = 4
"""
PROJECT = """
[project]
name = "quarter"
version = "1.0"
[project.entry-points.t2x]
quarter = "quarter_config"
[project.entry-points."t2x.settings"]
quarter = "quarter_config:QuarterConfig"
"""


def test_frames_that_do_not_fit_a_codec_are_told_with_file_and_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quarter_config.py").write_text(CODEC_CONFIG)
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    add_package(tmp_path, monkeypatch)
    (tmp_path / "mine.yaml").write_text(
        "base: text_to_video/quickstart\n"
        "codec: {name: quarter}\n"
        "tasks:\n"
        "  text-to-video:\n"
        "    data:\n"
        "      moving-shapes: {frames: 8}\n"
    )
    assert main(["fit", "mine.yaml"]) == 2
    assert capsys.readouterr().err == (
        "t2x: mine.yaml:6: tasks.text-to-video.data.moving-shapes.frames: 8 frames do not fit the quarter codec, "
        "which makes one of 4 after the first; 5 and 9 do\n"
    )
