"""Windows against plain loops: for each token, which others it may see."""

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.attention.flex_attention as flex_attention_module
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask

from t2x_core.backbone import fused, fused_flex
from t2x_core.backbone.attention import CrossAttention, FusedAttention, SelfAttention, WindowAttention
from t2x_core.backbone.config import PTDiTConfig
from t2x_core.backbone.embeddings import rotation
from t2x_core.backbone.pt_dit import PTDiTBlock
from t2x_core.backbone.windows import Triple, Windows, make_layout, resolve_window
from t2x_core.types import ConditioningDims

CPU = torch.device("cpu")
D, HEADS = 16, 2

# grid, window
CUTS: list[tuple[Triple, Triple]] = [
    ((1, 4, 4), (1, 2, 2)),  # divides
    ((1, 4, 8), (1, 4, 4)),  # one window along h
    ((1, 5, 7), (1, 2, 3)),  # neither axis divides
    ((1, 9, 4), (1, 4, 4)),  # a window with a single row
    ((4, 4, 2), (2, 2, 2)),  # frames
    ((3, 5, 3), (2, 3, 2)),  # nothing divides
    ((5, 2, 3), (4, 2, 3)),  # windows that cover h and w wholly
    ((2, 3, 3), (2, 3, 3)),  # one window
]


def piece(index: int, n: int, p: int, shifted: bool, shift_single: bool) -> tuple[int, bool]:
    """Along one axis: the window of a token after padding the end and rolling, and whether it was wrapped around."""
    windows = math.ceil(n / p)
    roll = p // 2 if shifted and (windows > 1 or shift_single) else 0
    return (index - roll) % (windows * p) // p, index < roll


def pieces(grid: Triple, window: Triple, shifted: bool, shift_single: bool = False) -> list[tuple]:
    """For each token, row-major, the name of its piece; tokens of one piece see each other."""
    return [
        tuple(piece(i, n, p, shifted, shift_single) for i, n, p in zip(token, grid, window, strict=True))
        for token in itertools.product(*map(range, grid))
    ]


def cut(grid: Triple, window: Triple, shifted: bool = False, **options: Any) -> Windows:
    layout = make_layout(grid, window, CPU, **options)
    return layout.shifted if shifted else layout.plain


def attend(attention: SelfAttention, x: Tensor, grid: Triple, window: Triple, shifted: bool, **options: Any) -> Tensor:
    """What an attention makes of tokens (B, N, D) that stand row by row, which is how they come out."""
    layout = make_layout(grid, window, CPU, **options)
    return layout.to_grid_order(attention(layout.to_window_order(x), layout.shifted if shifted else layout.plain))


def randomise(module: nn.Module) -> None:
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)


def loop_attention(q: Tensor, keys: list[list[Tensor]], values: list[list[Tensor]], bias: list[list[float]]) -> Tensor:
    """One sample: q (N, D); for each token its own lists of keys and values, each (D,), and what is added to logits."""
    d, rows = D // HEADS, []
    for i, query in enumerate(q):
        heads = []
        for head in range(HEADS):
            part = slice(head * d, (head + 1) * d)
            logits = torch.stack([query[part] @ key[part] / d**0.5 for key in keys[i]]) + torch.tensor(bias[i])
            heads.append(logits.softmax(0) @ torch.stack([value[part] for value in values[i]]))
        rows.append(torch.cat(heads))
    return torch.stack(rows)


def loop_window(attention: SelfAttention, x: Tensor, names: list[tuple]) -> Tensor:
    q, k, v = attention.qkv(x).chunk(3, -1)
    seen = [[j for j, other in enumerate(names) if other == name] for name in names]
    keys, values = ([[part[j] for j in row] for row in seen] for part in (k, v))
    return attention.out(loop_attention(q, keys, values, [[0.0] * len(row) for row in seen]))


def loop_fused(attention: SelfAttention, x: Tensor, names: list[tuple]) -> Tensor:
    q, k, v = attention.qkv(x).chunk(3, -1)
    keys, values, bias = [], [], []
    for name in names:
        own = [j for j, other in enumerate(names) if other == name]
        others = [[j for j, other in enumerate(names) if other == far] for far in dict.fromkeys(names) if far != name]
        keys.append([k[j] for j in own] + [k[members].mean(0) for members in others])
        values.append([v[j] for j in own] + [v[members].mean(0) for members in others])
        bias.append([0.0] * len(own) + [math.log(len(members)) for members in others])
    return attention.out(loop_attention(q, keys, values, bias))


def loop_cross(attention: CrossAttention, x: Tensor, context: Tensor) -> Tensor:
    k, v = attention.kv(context).chunk(2, -1)
    keys, values = ([list(part)] * len(x) for part in (k, v))
    return attention.out(loop_attention(attention.q(x), keys, values, [[0.0] * len(context)] * len(x)))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("grid", "window"), CUTS)
def test_window_attention(grid: Triple, window: Triple, shifted: bool) -> None:
    attention = WindowAttention(D, HEADS)
    randomise(attention)
    x = torch.randn(2, math.prod(grid), D)
    out = attend(attention, x, grid, window, shifted)
    names = pieces(grid, window, shifted)
    torch.testing.assert_close(out, torch.stack([loop_window(attention, sample, names) for sample in x]))


@pytest.mark.parametrize(("grid", "window"), CUTS)
def test_released_shift_on_axes_with_one_window(grid: Triple, window: Triple) -> None:
    attention = WindowAttention(D, HEADS)
    randomise(attention)
    x = torch.randn(1, math.prod(grid), D)
    out = attend(attention, x, grid, window, shifted=True, shift_single=True)
    names = pieces(grid, window, shifted=True, shift_single=True)
    torch.testing.assert_close(out[0], loop_window(attention, x[0], names))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("grid", "window"), CUTS)
def test_fused_attention(grid: Triple, window: Triple, shifted: bool) -> None:
    attention = FusedAttention(D, HEADS)
    randomise(attention)
    x = torch.randn(2, math.prod(grid), D)
    out = attend(attention, x, grid, window, shifted)
    names = pieces(grid, window, shifted)
    torch.testing.assert_close(out, torch.stack([loop_fused(attention, sample, names) for sample in x]))


CIRCLES: list[tuple[Triple, Triple]] = [((8, 2, 2), (4, 2, 1)), ((7, 3, 2), (4, 2, 2)), ((6, 2, 2), (3, 2, 2))]


def circle(grid: Triple, window: Triple) -> list[tuple]:
    """Pieces of a shifted cut whose frames go round: a shifted window joins the last ones to the first."""
    (n, *space), (p, *patch) = grid, window
    names = pieces((1, space[0], space[1]), (1, patch[0], patch[1]), shifted=True)
    return [((frame - p // 2) % n // p, *name[1:]) for frame in range(n) for name in names]


@pytest.mark.parametrize(("grid", "window"), CIRCLES)
def test_circular_frames(grid: Triple, window: Triple) -> None:
    window_attention, fused_attention = WindowAttention(D, HEADS), FusedAttention(D, HEADS)
    randomise(window_attention)
    randomise(fused_attention)
    x, names = torch.randn(2, math.prod(grid), D), circle(grid, window)
    for attention, loop in ((window_attention, loop_window), (fused_attention, loop_fused)):
        expected = torch.stack([loop(attention, sample, names) for sample in x])
        torch.testing.assert_close(attend(attention, x, grid, window, True, circular=True), expected)
    plain = attend(fused_attention, x, grid, window, False)
    torch.testing.assert_close(attend(fused_attention, x, grid, window, False, circular=True), plain)


@pytest.mark.parametrize(("grid", "window"), [((1, 4, 4), (1, 2, 2)), ((3, 5, 3), (2, 3, 2))])
def test_proxy_block(grid: Triple, window: Triple) -> None:
    """The whole block of the paper: proxies, windows, shifted windows, text with padding, MLP."""
    block = PTDiTBlock(PTDiTConfig(4, D, 1, HEADS, dims=ConditioningDims(text=8)), 0)
    randomise(block)
    x, t6 = torch.randn(2, math.prod(grid), D), torch.randn(2, 6, D)
    text, mask = torch.randn(2, 3, D), torch.tensor([[True, True, False], [True, True, True]])
    layout = make_layout(grid, window, CPU)
    out = layout.to_grid_order(block(layout.to_window_order(x), t6, text, mask, layout))
    torch.testing.assert_close(
        out,
        torch.stack([loop_block(block, x[i], t6[i], text[i][mask[i]], grid, window) for i in range(2)]),
        atol=1e-4,
        rtol=1e-4,
    )


def loop_block(block: PTDiTBlock, x: Tensor, t6: Tensor, text: Tensor, grid: Triple, window: Triple) -> Tensor:
    def norm(value: Tensor) -> Tensor:
        return F.layer_norm(value, (D,), eps=1e-6)

    plain, shifted = pieces(grid, window, False), pieces(grid, window, True)
    m, s = block.table + t6, block.shifted_table + t6[:3]
    p = torch.stack([x[[j for j, other in enumerate(plain) if other == name]].mean(0) for name in dict.fromkeys(plain)])
    p = p + loop_window(block.proxy_attention, norm(p), [()] * len(p))
    x = x + (block.visual_table[0] + t6[2]) * loop_cross(block.visual_attention, norm(x), norm(p))
    x = x + m[2] * loop_window(block.window_attention, norm(x) * (1 + m[1]) + m[0], plain)
    x = x + s[2] * loop_window(block.shifted_attention, norm(x) * (1 + s[1]) + s[0], shifted)
    assert block.text_attention is not None
    x = x + loop_cross(block.text_attention, x, text)
    return x + m[5] * block.mlp(norm(x) * (1 + m[4]) + m[3])


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("grid", [(1, 4, 4), (3, 5, 7)])
def test_fused_equals_dense_where_windows_are_uniform(grid: Triple, shifted: bool) -> None:
    """A proxy with its log-count term stands exactly for a window whose tokens are alike."""
    dense, fused = WindowAttention(D, HEADS), FusedAttention(D, HEADS)
    randomise(dense)
    fused.load_state_dict(dense.state_dict())
    names = pieces(grid, (2, 2, 2), shifted)
    of_piece = {name: torch.randn(D) for name in names}
    x = torch.stack([of_piece[name] for name in names])[None]
    out = attend(fused, x, grid, resolve_window((2, 2, 2), grid), shifted)
    torch.testing.assert_close(out, attend(dense, x, grid, grid, False))


@pytest.mark.parametrize("shifted", [False, True])
def test_fused_with_one_window_is_dense(shifted: bool) -> None:
    dense, fused = WindowAttention(D, HEADS, qk_norm=True), FusedAttention(D, HEADS, qk_norm=True)
    randomise(dense)
    fused.load_state_dict(dense.state_dict())
    x = torch.randn(2, 24, D)
    whole = cut((2, 3, 4), (2, 3, 4), shifted)
    torch.testing.assert_close(fused(x, whole), dense(x, whole))


def test_qk_norm_is_over_the_channels_of_a_head() -> None:
    attention = WindowAttention(D, HEADS, qk_norm=True)
    randomise(attention)
    x = torch.randn(1, 6, D)
    q, k, v = attention.qkv(x).view(6, 3, HEADS, D // HEADS).unbind(1)
    q, k = (part / part.square().mean(-1, keepdim=True).add(1e-6).sqrt() for part in (q, k))
    q, k = q * attention.q_norm.weight, k * attention.k_norm.weight
    logits = torch.einsum("ihd,jhd->hij", q, k) / (D // HEADS) ** 0.5
    expected = attention.out(torch.einsum("hij,jhd->ihd", logits.softmax(-1), v).reshape(1, 6, D))
    torch.testing.assert_close(attention(x, cut((1, 2, 3), (1, 2, 3))), expected)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("grid", "window"), CUTS)
def test_cut_and_join(grid: Triple, window: Triple, shifted: bool) -> None:
    layout = make_layout(grid, window, CPU)
    windows = layout.shifted if shifted else layout.plain
    x = torch.randn(2, math.prod(grid), D)
    assert torch.equal(layout.to_grid_order(layout.to_window_order(x)), x)
    parts = windows.cut(layout.to_window_order(x))
    names = pieces(grid, window, shifted)
    members = [[j for j, other in enumerate(names) if other == name] for name in sorted(set(names), key=names.index)]
    assert parts.shape == (2, len(members), math.prod(window), D)
    torch.testing.assert_close(layout.to_grid_order(windows.join(parts)), x)
    means = windows.mean(layout.to_window_order(x))
    torch.testing.assert_close(means, torch.stack([x[:, rows].mean(1) for rows in members], 1))
    assert windows.sizes.tolist() == [len(rows) for rows in members]
    if windows.valid is not None:
        assert (parts[:, ~windows.valid] == 0).all()


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("grid", "window"), [((1, 4, 4), (1, 2, 2)), ((3, 5, 3), (2, 3, 2))])
def test_gradients_of_moves(grid: Triple, window: Triple, shifted: bool) -> None:
    layout = make_layout(grid, window, CPU)
    windows = layout.shifted if shifted else layout.plain
    x = torch.randn(2, math.prod(grid), 2, dtype=torch.double, requires_grad=True)
    weights = torch.randn(windows.shape[0] * windows.shape[1], 2, dtype=torch.double)

    def there_and_back(x: Tensor) -> Tensor:
        slots = windows.cut(layout.to_window_order(x)).flatten(1, 2)
        return layout.to_grid_order(windows.join((slots * weights).sin().unflatten(1, windows.shape)))

    assert torch.autograd.gradcheck(there_and_back, x)


@pytest.mark.parametrize("slab", [1, 40, 2**20])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("grid", "window"), [((1, 4, 4), (1, 2, 2)), ((1, 5, 3), (1, 2, 3)), ((1, 2, 2), (1, 2, 2))])
def test_gradients_of_fused_attention_whatever_is_computed_at_once(
    grid: Triple, window: Triple, shifted: bool, slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fused.SLAB, "cpu", slab)
    windows = cut(grid, window, shifted)
    M, L = windows.shape
    shapes = [(3, M, L, 2)] * 3 + [(3, M, 2)] * 2
    parts = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    bias = windows.proxy_bias.double()

    def attention(*parts: Tensor) -> Tensor:
        out = fused.window_proxy_attention(*parts, bias, windows.valid)
        return out if windows.valid is None else out * windows.valid[..., None]

    with monkeypatch.context() as exact:  # the softmax in double precision, for finite differences
        exact.setattr(Tensor, "float", Tensor.double)
        assert torch.autograd.gradcheck(attention, parts, atol=1e-4, eps=1e-5)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    ("grid", "window"),
    [((1, 16, 16), (1, 4, 4)), ((1, 19, 17), (1, 5, 4)), ((1, 14, 13), (1, 14, 13)), ((6, 8, 8), (2, 2, 2))],
)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_sees_the_same(
    grid: Triple, window: Triple, shifted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # FlexAttention refuses gradients on a CPU, where its kernels have none; not compiled, it takes plain products.
    monkeypatch.setattr(flex_attention_module, "_validate_device", lambda *_: None)
    windows = cut(grid, window, shifted, flex=True)
    M, L = windows.shape
    parts = [torch.randn(shape, requires_grad=True) for shape in [(3, M, L, 16)] * 3 + [(3, M, 16)] * 2]
    weights = torch.randn(3, M, L, 16)
    if windows.valid is not None:
        weights = weights * windows.valid[..., None]
    assert windows.flex is not None
    results = []
    for out in (
        fused_flex.flex_window_proxy_attention(*parts, windows.flex),
        fused.window_proxy_attention(*parts, windows.proxy_bias, windows.valid),
    ):
        results.append((out * (weights != 0), *torch.autograd.grad(out, parts, weights)))
    for mine, plain in zip(*results, strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-4, rtol=1e-4)
    everything = create_block_mask(windows.flex.blocks.mask_mod, None, None, M * L, M * L + M, device="cpu")
    assert (windows.flex.blocks.to_dense() >= everything.to_dense()).all()  # no block is skipped that has something


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiles FlexAttention for a GPU")
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("grid", "window"), [((1, 16, 16), (1, 4, 4)), ((1, 19, 17), (1, 5, 4))])
def test_compiled_flex_attention_on_a_gpu(grid: Triple, window: Triple, shifted: bool) -> None:
    layout = make_layout(grid, window, torch.device("cuda"), flex=True)
    windows = layout.shifted if shifted else layout.plain
    attention = FusedAttention(64, 2, qk_norm=True).cuda()
    compiled = torch.compile(attention, fullgraph=True)
    x = torch.randn(2, math.prod(grid), 64, device="cuda", requires_grad=True)
    weights = torch.randn_like(x)
    results = []
    for each in (attention, compiled):
        out = each(x, windows)
        results.append((out, *torch.autograd.grad(out, [x, *attention.parameters()], weights)))
    for plain, mine in zip(*results, strict=True):
        torch.testing.assert_close(mine, plain, atol=2e-2, rtol=2e-2)


def test_middle_of_a_window_is_where_its_proxy_stands() -> None:
    layout = make_layout((1, 5, 6), (1, 2, 3), CPU, head_channels=16, position_scale=2.0)
    windows = layout.plain
    assert windows.rotation is not None
    assert windows.proxy_rotation is not None
    assert layout.rotation is not None
    turned = rotation(torch.tensor([[0, 0.25, 0.5], [0, 2.0, 2.0]]), 16)  # rows 0, 1 of columns 0 … 2; row 4 alone
    torch.testing.assert_close(windows.proxy_rotation.cos[[0, 5]], turned.cos)
    torch.testing.assert_close(windows.proxy_rotation.sin[[0, 5]], turned.sin)
    tokens = layout.to_grid_order(layout.rotation.sin[None])[0].view(5, 6, 8)
    torch.testing.assert_close(tokens[3, 4], rotation(torch.tensor([0, 1.5, 2.0]), 16).sin)
    slots, valid = windows.cut(layout.to_window_order(tokens.flatten(0, 1)[None]))[0], windows.valid
    assert valid is not None
    torch.testing.assert_close(slots[valid], windows.rotation.sin[valid])


def test_rotation_tells_distances_only() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 24)
    places = torch.randint(0, 9, (2, 3)).double()
    away = torch.tensor([3.0, 5.0, -2.0], dtype=torch.double)

    def logit(shift: Tensor) -> Tensor:
        turn_q, turn_k = (rotation(place + shift, 24) for place in places)
        return turn_q(q) @ turn_k(k)

    torch.testing.assert_close(logit(away), logit(0 * away), atol=1e-5, rtol=1e-5)
    turn = rotation(places[0], 24)
    torch.testing.assert_close(turn(q).norm(), q.norm())
    for axis in range(3):  # each axis turns something
        moved = places[0].clone()
        moved[axis] += 1
        assert (rotation(moved, 24)(q) - turn(q)).abs().max() > 0.1


def test_masks_only_where_there_is_padding() -> None:
    assert cut((1, 4, 4), (1, 2, 2)).valid is None
    assert cut((1, 4, 4), (1, 4, 4), shifted=True).valid is None
    assert cut((1, 4, 4), (1, 2, 2), shifted=True).valid is not None
    assert cut((1, 5, 4), (1, 2, 2)).valid is not None


def test_only_shifted_windows_move_tokens() -> None:
    layout = make_layout((4, 8, 8), (2, 2, 4), CPU)
    assert layout.move is not None
    assert layout.plain.move is None
    assert layout.shifted.move is not None
    assert make_layout((1, 8, 8), (1, 8, 8), CPU).move is None


def test_layouts_are_made_once_and_can_be_trained_with_after_inference() -> None:
    with torch.inference_mode():
        windows = cut((1, 7, 5), (1, 2, 2), shifted=True, head_channels=D // HEADS)
    assert cut((1, 7, 5), (1, 2, 2), shifted=True, head_channels=D // HEADS) is windows
    attention = FusedAttention(D, HEADS)
    attention(torch.randn(1, 35, D), windows).sum().backward()


@pytest.mark.parametrize(
    ("grid", "window", "expected"),
    [
        ((1, 16, 16), "auto", (1, 2, 2)),  # 256 px
        ((1, 32, 32), "auto", (1, 4, 4)),  # 512 px
        ((1, 64, 64), "auto", (1, 8, 8)),  # 1024 px
        ((1, 128, 128), "auto", (1, 16, 16)),  # 2048 px
        ((16, 32, 60), "auto", (4, 4, 8)),
        ((3, 8, 1), "auto", (3, 2, 1)),
        ((2, 16, 4), (4, 8, 8), (2, 8, 4)),
    ],
)
def test_window_for_a_grid(grid: Triple, window: Triple, expected: Triple) -> None:
    assert resolve_window(window, grid) == expected


def test_cached_layouts_do_not_depend_on_where_they_were_first_asked_for() -> None:
    with torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
        windows = cut((3, 19, 17), (3, 19, 17))
    assert windows.sizes.dtype == windows.proxy_bias.dtype == torch.float32
    assert windows.sizes.tolist() == [3 * 19 * 17]
