"""The network as a whole, for each attention: shapes, conditioning, batches, gradients, precision."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2x_core.backbone import PRESETS, ConditioningCache, PTDiT, PTDiTConfig
from t2x_core.backbone.attention import WindowAttention
from t2x_core.backbone.embeddings import position_table
from t2x_core.types import Conditioning, ConditioningDims, FrameAxis

DIMS = ConditioningDims(text=12, vector=5, frames=3, concat=2)
ATTENTIONS = ["proxy", "fused", "dense"]


def build(attention: str, random: bool = True, **changes: Any) -> PTDiT:
    torch.manual_seed(0)
    config = PTDiTConfig(
        in_channels=4,
        width=32,
        depth=2,
        heads=2,
        attention=attention,  # type: ignore[arg-type]
        dims=DIMS,
    )
    model = PTDiT(replace(config, **changes))
    if random:  # nothing at zero
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.1)
    return model


def inputs(batch: int = 2, frames: int = 3, height: int = 10, width: int = 6) -> tuple[Tensor, Tensor, Conditioning]:
    torch.manual_seed(1)
    mask = torch.arange(5) < torch.arange(2, 2 + batch)[:, None]
    return (
        torch.randn(batch, 4, frames, height, width),
        torch.linspace(0.1, 0.9, batch),
        Conditioning(
            text=torch.randn(batch, 5, 12),
            text_mask=mask,
            vector=torch.randn(batch, 5),
            frames=torch.randn(batch, frames, 3),
            concat=torch.randn(batch, 2, frames, height, width),
        ),
    )


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 6, 14), (5, 10, 6), (1, 2, 2)])
def test_any_grid(attention: str, shape: tuple[int, int, int]) -> None:
    out = build(attention, out_channels=6)(*inputs(2, *shape))
    assert out.shape == (2, 6, *shape)
    assert out.isfinite().all()


@pytest.mark.parametrize("position", ["sincos", "rope"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_batch_equals_one_sample_at_a_time(attention: str, position: str) -> None:
    model = build(attention, position=position)
    x, t, c = inputs(3)
    rows = [slice(i, i + 1) for i in range(3)]
    single = [
        model(x[i], t[i], Conditioning(c.text[i], c.text_mask[i], c.vector[i], c.frames[i], c.concat[i])) for i in rows
    ]
    torch.testing.assert_close(model(x, t, c), torch.cat(single))


@pytest.mark.parametrize("position", ["sincos", "rope"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_new_network_predicts_zero_and_all_of_it_learns(attention: str, position: str) -> None:
    assert not build(attention, random=False, position=position)(*inputs()).any()
    model = build(attention, qk_norm=True, position=position)
    model(*inputs()).square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_padded_text_does_not_matter(attention: str) -> None:
    model = build(attention)
    x, t, c = inputs()
    other = replace(c, text=torch.where(c.text_mask[..., None], c.text, 50.0))
    torch.testing.assert_close(model(x, t, other), model(x, t, c))
    short = replace(
        c, text=c.text[:1, :2], text_mask=None, vector=c.vector[:1], frames=c.frames[:1], concat=c.concat[:1]
    )
    torch.testing.assert_close(model(x[:1], t[:1], short), model(x, t, c)[:1])


@pytest.mark.parametrize("part", ["text", "vector", "frames", "concat"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_each_part_of_the_conditioning_matters_to_its_own_sample(attention: str, part: str) -> None:
    model = build(attention)
    x, t, c = inputs()
    value = getattr(c, part).clone()
    value[1] += 1
    changed = (model(x, t, replace(c, **{part: value})) - model(x, t, c)).abs().amax((1, 2, 3, 4))
    assert changed[0] == 0
    assert changed[1] > 1e-4


@pytest.mark.parametrize("position", ["sincos", "rope"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_what_the_conditioning_alone_decides_is_computed_once(attention: str, position: str) -> None:
    model = build(attention, qk_norm=True, position=position)
    x, t, c = inputs()
    calls: list[str] = []
    for name, layer in model.named_modules():
        if name.endswith(("text_projection", "text_attention.kv", "visual_attention.kv")):
            layer.register_forward_hook(lambda *_, name=name: calls.append(name))
    cache = ConditioningCache()
    with torch.no_grad():
        for step in range(3):
            assert torch.equal(model(x + step, t, c, cache), model(x + step, t, c))
    texts = [name for name in calls if "text" in name]
    assert len(texts) == (1 + 3) * (1 + len(model.blocks))
    assert len(calls) - len(texts) == (6 * len(model.blocks) if attention == "proxy" else 0)  # proxies change each time


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_rotations_tell_where_tokens_are(attention: str) -> None:
    """Without positions a mirrored image comes out mirrored; with them it does not, along any axis."""
    model = build(attention, position="rope", dims=ConditioningDims(), window=(2, 2, 2), patch_size=1)
    for layer in model.modules():
        if hasattr(layer, "qkv"):
            nn.init.normal_(layer.qkv.weight, std=0.5)
    torch.manual_seed(2)
    x, t = torch.randn(1, 4, 4, 4, 4), torch.rand(1)
    for axis in (2, 3, 4):
        mirrored = (model(x.flip(axis), t, Conditioning()) - model(x, t, Conditioning()).flip(axis)).abs().max()
        assert mirrored > 1e-3, axis
    still = Conditioning(frame_axis=FrameAxis(window=2, frame_positions=False))
    cut = build(attention, position="rope", dims=ConditioningDims(), window=(2, 2, 2), patch_size=1, depth=1)
    torch.testing.assert_close(cut(x.flip(2), t, still), cut(x, t, still).flip(2))


@pytest.mark.parametrize("left_out", ["giim", "tcm"])
def test_parts_of_the_proxy_block_can_be_left_out(left_out: str) -> None:
    whole, part = build("proxy"), build("proxy", **{left_out: False})
    gone = dict(whole.blocks[0].named_parameters()).keys() - dict(part.blocks[0].named_parameters())
    layers = {"giim": ("proxy", "visual"), "tcm": ("window", "shifted")}[left_out]
    assert {name.split("_")[0] for name in gone} == set(layers)
    part(*inputs()).square().mean().backward()
    assert not [name for name, p in part.named_parameters() if p.grad is None or not p.grad.any()]


def test_new_vector_and_frame_projections_change_nothing() -> None:
    model = build("proxy")
    x, t, c = inputs()
    for layer in (model.vector_projection, model.frame_projection):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    without = build("proxy", dims=ConditioningDims(text=12, concat=2))
    without.load_state_dict({name: p for name, p in model.state_dict().items() if name in without.state_dict()})
    torch.testing.assert_close(model(x, t, c), without(x, t, replace(c, vector=None, frames=None)))


def test_without_any_conditioning() -> None:
    model = build("fused", dims=ConditioningDims())
    x, t, _ = inputs()
    assert model(x, t, Conditioning()).shape == x.shape
    assert not [name for name, _ in model.named_parameters() if "text" in name]


@pytest.mark.parametrize("attention", ["proxy", "fused"])
def test_a_window_larger_than_the_grid_is_the_whole_grid(attention: str) -> None:
    x, t, c = inputs()
    large, exact = (build(attention, window=window)(x, t, c) for window in ((8, 8, 8), (3, 5, 3)))
    torch.testing.assert_close(large, exact)


def test_fused_with_the_whole_grid_as_window_is_dense() -> None:
    dense, fused = build("dense"), build("fused", window=(3, 5, 3))
    fused.load_state_dict(dense.state_dict())
    torch.testing.assert_close(fused(*inputs()), dense(*inputs()))


def test_fused_shifts_the_windows_in_every_other_block() -> None:
    """A head that sees the own window only: what one token can reach in one block and in two."""

    def reached(depth: int) -> set[tuple[int, int]]:
        model = build("fused", depth=depth, dims=ConditioningDims(), window=(1, 2, 2))
        for block in model.blocks:
            block.attention.forward = WindowAttention.forward.__get__(block.attention)
        x = torch.randn(1, 4, 1, 12, 12, requires_grad=True)
        model(x, torch.rand(1), Conditioning())[0, 0, 0, 4, 4].backward()  # of token (2, 2)
        return {(row // 2, column // 2) for row, column in x.grad[0, :, 0].any(0).nonzero().tolist()}

    assert reached(1) == {(2, 2), (2, 3), (3, 2), (3, 3)}
    assert reached(2) == {(row, column) for row in range(6) for column in range(6) if {row, column} <= {0, 1, 2, 3}}


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_bf16(attention: str) -> None:
    model = build(attention, qk_norm=True)
    x, t, c = inputs()
    expected = model(x, t, c)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x, t, c)
    out.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    torch.testing.assert_close(out.float(), expected, atol=0.05, rtol=0.1)
    out = model.bfloat16()(x.bfloat16(), t, c.to(torch.bfloat16))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_training_after_inference_mode(attention: str) -> None:
    model, batch = build(attention), inputs(2, 2, 14, 18)
    with torch.inference_mode():
        model(*batch)
    model(*batch).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_patches_are_not_mixed_up() -> None:
    """With embedding and head as identities on patches, what goes in comes out (the layouts of the two differ)."""
    model = build("dense", dims=ConditioningDims())
    x = inputs()[0]
    tokens = model._patchify(x)  # (B, N, C·P·P)
    assert torch.equal(tokens[0, 1].view(4, 2, 2), x[0, :, 0, :2, 2:4])
    head = tokens.unflatten(2, (4, 2, 2)).permute(0, 1, 3, 4, 2).flatten(2)  # (B, N, P·P·C)
    assert torch.equal(model._unpatchify(head, (3, 5, 3)), x)


def test_positions_tell_frames_columns_and_rows_apart() -> None:
    table = position_table((2, 3, 5), 32, 1.0, torch.device("cpu")).view(2, 3, 5, 32)
    frame, column, row = table.split((8, 12, 12), -1)
    assert (frame == frame[:, :1, :1]).all()
    assert (column == column[:1, :1]).all()
    assert (row == row[:1, :, :1]).all()
    assert len(table.view(30, 32).unique(dim=0)) == 30
    torch.testing.assert_close(column[0, 0, 3, 0], torch.tensor(3.0).sin())
    halved = position_table((2, 3, 5), 32, 2.0, torch.device("cpu")).view(2, 3, 5, 32)
    torch.testing.assert_close(halved[1, 2, 4, 8:], table[1, 1, 2, 8:])


def test_latents_that_patches_do_not_divide() -> None:
    with pytest.raises(ValueError, match="latents of 7×6 cannot be cut into patches of 2×2"):
        build("dense", dims=ConditioningDims())(torch.randn(1, 4, 1, 7, 6), torch.rand(1), Conditioning())


def test_a_part_that_the_network_was_not_built_for() -> None:
    x, t, c = inputs()
    with pytest.raises(ValueError, match=r"conditioning.vector has 5 channels, the backbone was built for 0"):
        build("dense", dims=replace(DIMS, vector=0))(x, t, c)
    with pytest.raises(ValueError, match=r"conditioning.text has 12 channels, the backbone was built for 11"):
        build("dense", dims=replace(DIMS, text=11))(x, t, c)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_task_with_fewer_and_narrower_parts_shares_the_backbone(attention: str) -> None:
    """What is absent does nothing and gets no gradient; what is narrow uses the first rows of its projection."""
    model, (x, t, c) = build(attention), inputs()
    assert c.text is not None
    assert c.vector is not None
    narrow = Conditioning(text=c.text[..., :7], text_mask=c.text_mask)
    model(x, t, narrow).square().mean().backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert grads["vector_projection.weight"] is None
    assert grads["frame_projection.weight"] is None
    first = next(grad for name, grad in grads.items() if name.startswith("text_projection") and grad.ndim == 2)
    assert first[:, :7].abs().sum() > 0
    assert first[:, 7:].abs().sum() == 0
    assert DIMS.concat
    wide = replace(narrow, text=F.pad(narrow.text, (0, 5)), concat=torch.zeros(len(x), DIMS.concat, *x.shape[2:]))
    torch.testing.assert_close(model(x, t, narrow), model(x, t, wide), atol=0, rtol=0)
    without_text = model(x, t, Conditioning(vector=c.vector))
    assert without_text.isfinite().all()


@pytest.mark.parametrize("attention", ["proxy", "fused"])
def test_a_circle_of_views_has_no_beginning(attention: str) -> None:
    """Views that are turned by a whole window come out turned, if their axis is circular and not numbered."""
    model = build(attention, dims=ConditioningDims())
    x, t = torch.randn(2, 4, 8, 6, 6), torch.rand(2)
    circle = Conditioning(frame_axis=FrameAxis(window=4, circular=True, frame_positions=False))
    line = Conditioning(frame_axis=FrameAxis(window=4, frame_positions=False))
    turned = x.roll(4, 2)
    torch.testing.assert_close(model(turned, t, circle), model(x, t, circle).roll(4, 2))
    assert (model(turned, t, line) - model(x, t, line).roll(4, 2)).abs().max() > 1e-3
    numbered = Conditioning(frame_axis=FrameAxis(window=4, circular=True))
    assert (model(turned, t, numbered) - model(x, t, numbered).roll(4, 2)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "32 is not divisible by 5 heads; 80 and 160 are"),
        ({"width": 24, "heads": 3}, "24 is not divisible by 16; 16 and 32 are"),
        ({"depth": 0}, "depth must be at least 1, not 0"),
        ({"window": (1, 0, 2)}, "window must be three numbers"),
        ({"attention": "linear"}, 'attention must be "proxy", "fused" or "dense", not "linear"'),
        ({"attention": "dense", "released": True}, "released network has attention"),
        ({"position": "alibi"}, 'position must be "sincos" or "rope", not "alibi"'),
        ({"position": "rope", "width": 48, "heads": 16}, "rope needs an even number of channels a head, not 3"),
        ({"position": "rope", "released": True}, 'released network has position "sincos"'),
        ({"folded": True}, "only a released network has something to fold"),
        ({"giim": False, "tcm": False}, "giim and tcm cannot both be left out"),
        ({"tcm": False, "attention": "fused"}, "giim and tcm can be left out of a proxy network of our own only"),
    ],
)
def test_configurations_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PTDiTConfig(in_channels=4, width=32, depth=1, heads=2), **changes)


@pytest.mark.parametrize(
    ("preset", "proxy", "dense"),
    [("S", 52.6, 31.3), ("B", 206.6, 121.5), ("L", 718.4, 416.0), ("XL", 1057.3, 610.8), ("H", 1488.2, 858.4)],
)
def test_parameters_of_presets_in_millions(preset: str, proxy: float, dense: float) -> None:
    counts = {}
    with torch.device("meta"):
        for attention in ("proxy", "fused", "dense"):
            config = PTDiTConfig(in_channels=4, dims=ConditioningDims(text=4096), **PRESETS[preset])
            model = PTDiT(replace(config, attention=attention))
            counts[attention] = round(sum(p.numel() for p in model.parameters()) / 1e6, 1)
    assert counts == {"proxy": proxy, "fused": dense, "dense": dense}
