"""What `t2x bench backbone` is asked for. Checked without torch, so that a mistake shows at once."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import isqrt, prod

from t2x_core.errors import UserError, did_you_mean

Grid = tuple[int, int, int]

VARIANTS = {
    "proxy": "the paper's block, as trained here",
    "fused": "own window and all proxies in one attention",
    "dense": "every token sees every token",
    "released": "the paper's block as its authors released it",
    "folded": "the released block folded for sampling, text keys and values kept",
    "pixart": "PixArtTransformer2DModel of diffusers, of the same width and depth",
}
PASSES = {"forward": "forward", "backward": "forward + backward"}
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")
SHAPES = {
    "cpu": ("256,1024,4096", "16x8x8"),
    "cuda": ("256,1024,4096,16384", "16x16x16,64x16x16"),
}
"""Device → images and clips that are measured if nothing is said: on two CPU cores about ten minutes."""
LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Options:
    """What is measured; every combination of grids and passes is a cell."""

    width: int
    """D."""
    depth: int
    """Blocks."""
    heads: int
    """Heads of each attention."""
    batch: int = 1
    """Samples in a call."""
    text: int = 200
    """Text tokens of a sample; 0: the networks know no text."""
    grids: tuple[Grid, ...] = ()
    """Token grids (f, h, w)."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Of `VARIANTS`."""
    passes: tuple[str, ...] = tuple(PASSES)
    """Of `PASSES`."""
    device: str = "cpu"
    """cpu or cuda."""
    precision: str = "32-true"
    """Of `PRECISIONS`."""
    compiled: tuple[bool, ...] = (False,)
    """Whether the blocks are compiled: (False,), (True,), or both."""
    rounds: int = 9
    """Rounds of each network in a cell, at most."""
    budget: float = 40
    """Seconds for the turns of a cell; `LEAST_ROUNDS` are made anyway."""

    def cells(self) -> list[tuple[Grid, str]]:
        """The token grids and passes for which there is something to measure."""
        return [(grid, pass_) for grid in self.grids for pass_ in self.passes if self.variants_of(grid, pass_)]

    def variants_of(self, grid: Grid, pass_: str) -> tuple[str, ...]:
        """The variants that can do it: PixArt knows square images, what is folded only samples."""
        square = grid[0] == 1 and grid[1] == grid[2]
        left_out = {"pixart": not square, "folded": pass_ == "backward"}
        return tuple(name for name in self.variants if not left_out.get(name, False))


@dataclass(frozen=True)
class Request:
    """The options as they were given; what depends on the device is still open where nothing was said."""

    options: Options
    device: str | None
    tokens: str | None
    clips: str | None
    precision: str | None
    compile_: str | None

    def on(self, cuda: bool) -> Options:
        """Settled for this machine. UserError if it has no GPU and one was asked for."""
        device = self.device or ("cuda" if cuda else "cpu")
        if device == "cuda" and not cuda:
            raise _mistake("--device cuda: there is no GPU that torch can use", "leave it out to measure the CPU")
        tokens, clips = SHAPES[device]
        if self.tokens is not None or self.clips is not None:  # who names some wants only those
            tokens, clips = self.tokens or "", self.clips or ""
        precision = self.precision or ("bf16-mixed" if device == "cuda" else "32-true")
        compile_ = self.compile_ or ("both" if device == "cuda" else "no")
        return replace(
            self.options,
            grids=(*read_tokens(tokens), *read_clips(clips)),
            device=device,
            precision=precision,
            compiled={"no": (False,), "yes": (True,), "both": (False, True)}[compile_],
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command line that `read` reads."""
    on = {device: f"{tokens} and {clips}" for device, (tokens, clips) in SHAPES.items()}
    add = parser.add_argument
    add("--device", choices=list(SHAPES), help="default: cuda if there is one")
    add("--width", type=int, default=768, help="D, channels of a token (default 768)")
    add("--depth", type=int, default=4, help="blocks (default 4)")
    add("--heads", type=int, help="default: one for 64 channels; 16 at width 1152, as in the paper")
    add("--tokens", metavar="N,…", help=f"square images, by their tokens (default: {on['cpu']}; GPU: {on['cuda']})")
    add("--clips", metavar="FxHxW,…", help="clips, by their token grid: frames × rows × columns")
    add("--variants", metavar="NAME,…", help=f"of {', '.join(VARIANTS)} (default: all; pixart needs diffusers)")
    add("--passes", default="forward,backward", help="forward, backward (forward + backward), or both (default)")
    add("--precision", choices=PRECISIONS, help="default: 32-true on a CPU, bf16-mixed on a GPU")
    add("--compile", choices=["no", "yes", "both"], help="whether blocks are compiled (default: no; on a GPU both)")
    add("--batch", type=int, default=1, help="samples in a call (default 1)")
    add("--text", type=int, default=200, help="text tokens of a sample (default 200)")
    add("--rounds", type=int, default=9, help="turns of each network in a cell, at most (default 9)")
    add("--budget", type=float, default=40, metavar="SECONDS", help="for the turns of a cell (default 40)")
    add("--threads", type=int, help="threads of a CPU (default: as torch chooses)")


def read(arguments: argparse.Namespace) -> Request:
    """UserError for whatever is no option."""
    width, heads = arguments.width, arguments.heads
    if heads is None:
        heads = 16 if width == 1152 else max(1, width // 64)
    least = {
        "width": 16,
        "depth": 1,
        "heads": 1,
        "batch": 1,
        "text": 1,
        "rounds": LEAST_ROUNDS,
        "budget": 0,
        "threads": 1,
    }
    for name, smallest in least.items():
        given = getattr(arguments, name)
        if given is not None and given < smallest:
            raise _mistake(f"--{name} must be at least {smallest}, not {given}")
    if width % 16 or width % heads:
        raise _mistake(f"--width must be a multiple of 16 and of the number of heads, {heads}, not {width}")
    grids = (*read_tokens(arguments.tokens or ""), *read_clips(arguments.clips or ""))
    options = Options(
        width=width,
        depth=arguments.depth,
        heads=heads,
        batch=arguments.batch,
        text=arguments.text,
        grids=grids,
        variants=_variants(arguments.variants),
        passes=_names(arguments.passes, PASSES, "--passes"),
        rounds=arguments.rounds,
        budget=arguments.budget,
    )
    if not any(options.variants_of(grid, way) for grid in grids or [(1, 2, 2)] for way in options.passes):
        raise _mistake("nothing can be measured", "pixart knows no clips, what is folded has no backward pass")
    open_ = (arguments.device, arguments.tokens, arguments.clips, arguments.precision, arguments.compile)
    return Request(options, *open_)


def read_tokens(text: str) -> tuple[Grid, ...]:
    """ "256,1024" -> (1, 16, 16), (1, 32, 32); UserError if one is no square of at least 4."""
    grids = []
    for word in _words(text):
        side = isqrt(int(word)) if word.isdecimal() else 0
        if side < 2 or side * side != int(word):
            raise _mistake(f'--tokens must be square numbers from 4, such as 256,1024, not "{word}"')
        grids.append((1, side, side))
    return tuple(grids)


def read_clips(text: str) -> tuple[Grid, ...]:
    """ "16x8x8" -> (16, 8, 8); UserError for anything else."""
    grids: list[Grid] = []
    for word in _words(text):
        numbers = [int(part) for part in word.split("x") if part.isdecimal()]
        if len(numbers) != 3 or word.count("x") != 2 or min(numbers) < 1 or prod(numbers) < 4:
            raise _mistake(f'--clips must be frames x rows x columns, such as 16x8x8, not "{word}"')
        grids.append((numbers[0], numbers[1], numbers[2]))
    return tuple(grids)


def missing_pixart() -> bool:
    """Whether PixArt cannot be measured because diffusers is not installed."""
    return find_spec("diffusers") is None


def _variants(text: str | None) -> tuple[str, ...]:
    if text is None:
        return tuple(name for name in VARIANTS if name != "pixart" or not missing_pixart())
    names = _names(text, VARIANTS, "--variants")
    if "pixart" in names and missing_pixart():
        raise _mistake("--variants pixart needs the package diffusers", 'pip install "t2x[bench]"')
    return names


def _names(text: str, known: Mapping[str, str], option: str) -> tuple[str, ...]:
    names = _words(text)
    for name in names:
        if name not in known:
            raise _mistake(f'{option}: there is no "{name}"', did_you_mean(name, known) or f"of {', '.join(known)}")
    if not names:
        raise _mistake(f"{option} names nothing", f"of {', '.join(known)}")
    return tuple(dict.fromkeys(names))


def _words(text: str) -> Sequence[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _mistake(message: str, hint: str | None = None) -> UserError:
    return UserError(message, where="command line", hint=hint)
