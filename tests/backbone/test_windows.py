"""Windows against plain loops: for each token, which others it may see."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2x_core.backbone.attention import CrossAttention, DenseAttention, FusedAttention, SelfAttention, WindowAttention
from t2x_core.backbone.pt_dit import PTDiTBlock, PTDiTConfig
from t2x_core.backbone.windows import Triple, Windows, cut_windows, resolve_window
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
    out = attention(x, cut_windows(grid, window, CPU, shifted))
    names = pieces(grid, window, shifted)
    torch.testing.assert_close(out, torch.stack([loop_window(attention, sample, names) for sample in x]))


@pytest.mark.parametrize(("grid", "window"), CUTS)
def test_released_shift_on_axes_with_one_window(grid: Triple, window: Triple) -> None:
    attention = WindowAttention(D, HEADS)
    randomise(attention)
    x = torch.randn(1, math.prod(grid), D)
    out = attention(x, cut_windows(grid, window, CPU, shifted=True, shift_single=True))
    names = pieces(grid, window, shifted=True, shift_single=True)
    torch.testing.assert_close(out[0], loop_window(attention, x[0], names))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("grid", "window"), CUTS)
def test_fused_attention(grid: Triple, window: Triple, shifted: bool) -> None:
    attention = FusedAttention(D, HEADS)
    randomise(attention)
    x = torch.randn(2, math.prod(grid), D)
    out = attention(x, cut_windows(grid, window, CPU, shifted))
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
    window_attention, fused = WindowAttention(D, HEADS), FusedAttention(D, HEADS)
    randomise(window_attention)
    randomise(fused)
    x, names = torch.randn(2, math.prod(grid), D), circle(grid, window)
    cut = cut_windows(grid, window, CPU, shifted=True, circular=True)
    for attention, loop in ((window_attention, loop_window), (fused, loop_fused)):
        expected = torch.stack([loop(attention, sample, names) for sample in x])
        torch.testing.assert_close(attention(x, cut), expected)
    same = cut_windows(grid, window, CPU, circular=True)
    torch.testing.assert_close(fused(x, same), fused(x, cut_windows(grid, window, CPU)))


@pytest.mark.parametrize(("grid", "window"), [((1, 4, 4), (1, 2, 2)), ((3, 5, 3), (2, 3, 2))])
def test_proxy_block(grid: Triple, window: Triple) -> None:
    """The whole block of the paper: proxies, windows, shifted windows, text with padding, MLP."""
    block = PTDiTBlock(PTDiTConfig(4, D, 1, HEADS, dims=ConditioningDims(text=8)), 0)
    randomise(block)
    x, t6 = torch.randn(2, math.prod(grid), D), torch.randn(2, 6, D)
    text, mask = torch.randn(2, 3, D), torch.tensor([[True, True, False], [True, True, True]])
    cuts = cut_windows(grid, window, CPU), cut_windows(grid, window, CPU, shifted=True)
    out = block(x, t6, text, mask, cuts)
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
    dense, fused = DenseAttention(D, HEADS), FusedAttention(D, HEADS)
    randomise(dense)
    fused.load_state_dict(dense.state_dict())
    names = pieces(grid, (2, 2, 2), shifted)
    of_piece = {name: torch.randn(D) for name in names}
    x = torch.stack([of_piece[name] for name in names])[None]
    out = fused(x, cut_windows(grid, resolve_window((2, 2, 2), grid), CPU, shifted))
    torch.testing.assert_close(out, dense(x))


@pytest.mark.parametrize("shifted", [False, True])
def test_fused_with_one_window_is_dense(shifted: bool) -> None:
    dense, fused = DenseAttention(D, HEADS, qk_norm=True), FusedAttention(D, HEADS, qk_norm=True)
    randomise(dense)
    fused.load_state_dict(dense.state_dict())
    x = torch.randn(2, 24, D)
    torch.testing.assert_close(fused(x, cut_windows((2, 3, 4), (2, 3, 4), CPU, shifted)), dense(x))


def test_qk_norm_is_over_the_channels_of_a_head() -> None:
    attention = DenseAttention(D, HEADS, qk_norm=True)
    randomise(attention)
    x = torch.randn(1, 6, D)
    q, k, v = attention.qkv(x).view(6, 3, HEADS, D // HEADS).unbind(1)
    q, k = (part / part.square().mean(-1, keepdim=True).add(1e-6).sqrt() for part in (q, k))
    q, k = q * attention.q_norm.weight, k * attention.k_norm.weight
    logits = torch.einsum("ihd,jhd->hij", q, k) / (D // HEADS) ** 0.5
    expected = attention.out(torch.einsum("hij,jhd->ihd", logits.softmax(-1), v).reshape(1, 6, D))
    torch.testing.assert_close(attention(x), expected)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("grid", "window"), CUTS)
def test_cut_and_join(grid: Triple, window: Triple, shifted: bool) -> None:
    windows = cut_windows(grid, window, CPU, shifted)
    x = torch.randn(2, math.prod(grid), 3 * D)
    parts = windows.cut(x, 3, HEADS)
    M, L = math.prod(windows.counts), math.prod(window)
    assert parts.shape == (3, 2, HEADS, M, L, D // HEADS)
    torch.testing.assert_close(torch.cat([windows.join(part) for part in parts], -1), x)
    names = pieces(grid, window, shifted)
    members = [[j for j, other in enumerate(names) if other == name] for name in sorted(set(names), key=names.index)]
    means = windows.mean(x)
    assert means.shape == (2, M, 3 * D)
    torch.testing.assert_close(means, torch.stack([x[:, rows].mean(1) for rows in members], 1))
    assert windows.sizes.tolist() == [len(rows) for rows in members]


def test_masks_only_where_there_is_padding() -> None:
    assert cut_windows((1, 4, 4), (1, 2, 2), CPU).valid is None
    assert cut_windows((1, 4, 4), (1, 4, 4), CPU, shifted=True).valid is None
    assert cut_windows((1, 4, 4), (1, 2, 2), CPU, shifted=True).valid is not None
    assert cut_windows((1, 5, 4), (1, 2, 2), CPU).valid is not None


def test_layouts_are_made_once_and_can_be_trained_with_after_inference() -> None:
    with torch.inference_mode():
        windows: Windows = cut_windows((1, 7, 5), (1, 2, 2), CPU, shifted=True)
    assert cut_windows((1, 7, 5), (1, 2, 2), CPU, shifted=True) is windows
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
        windows = cut_windows((3, 19, 17), (3, 19, 17), CPU)
    assert windows.sizes.dtype == windows.proxy_bias.dtype == torch.float32
    assert windows.sizes.tolist() == [3 * 19 * 17]
