"""Sampling: prompts and seeds → pixels, batch by batch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from t2x_core import keyed
from t2x_core.backbone import ConditioningCache
from t2x_core.diffusion import SAMPLERS, Callback, grid, guided, ignore
from t2x_core.errors import UserError
from t2x_core.free_memory import GIB, free_memory
from t2x_core.module import T2XModule
from t2x_core.recipe import SamplerConfig
from t2x_core.types import Batch, Bucket, Conditioning, LatentShape
from t2x_core.wording import counted

log = logging.getLogger("t2x")

MOST_AT_ONCE = {"cpu": 8, "cuda": 64}
"""Samples of a batch, at most, by device: more are no faster, and what is done is kept batch by batch."""
SHARE = 0.6
"""Of the free memory that a batch may take."""
TOKEN_COPIES = 32
"""Tensors as large as all tokens that a block keeps at once: its input, q, k and v, the MLP's inner ones, and so on."""
PIXEL_COPIES = 8
"""Tensors as large as the pixels that decoding and showing keep at once, the decoder's own layers apart."""
PRECISIONS = {"32-true": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Arithmetic of the network, as somebody asks for it → the type of autocast."""


@dataclass(frozen=True)
class Request:
    """What is to be sampled, checked."""

    conditions: Batch
    seeds: tuple[int, ...]
    """One for each sample."""
    bucket: Bucket
    """The shape of a sample, in pixels."""
    settings: SamplerConfig
    negative: Batch | None = None
    """What guidance leads away from; None: the unconditional."""
    batch_size: int | None = None
    """Samples computed at once; None: as memory allows."""
    exact: bool = False
    """Whether the image of a seed is the same to the last bit whatever stands around it."""
    precision: str = "32-true"
    preview: bool = False
    """Whether latents are decoded more cheaply, if the codec can."""

    def __len__(self) -> int:
        return len(self.seeds)


@torch.no_grad()
def sample(
    module: T2XModule,
    conditions: Batch,
    seeds: Sequence[int],
    bucket: Bucket,
    config: SamplerConfig,
    batch_size: int = 1,
    preview: bool = False,
) -> Tensor:
    """Pixels (B, 3, F, H, W) in [-1, 1] for B conditions, each from its own seed; `preview`: decoded more cheaply, if
    the codec can.

    The last batch is filled up to `batch_size`, so that a sample is computed by the same operations whatever stands
    around it: the image of a seed depends on the prompt, the seed and `batch_size` alone, to the last bit.
    """
    request = Request(conditions, tuple(seeds), bucket, config, preview=preview)
    parts = []
    with _evaluating(module):
        for start in range(0, len(request), batch_size):
            parts.append(_sample_batch(module, request, _rows(start, batch_size, request), ignore))
    return torch.cat(parts)[: len(request)]


@contextmanager
def _evaluating(module: T2XModule) -> Iterator[None]:
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def _rows(start: int, size: int, request: Request) -> list[int]:
    """The next `size` samples, the last one again where there are not so many."""
    return [min(i, len(request) - 1) for i in range(start, start + size)]


@torch.no_grad()
def sample_batches(module: T2XModule, request: Request, callback: Callback = ignore) -> Iterator[Tensor]:
    """Pixels (n, 3, F, H, W) in [-1, 1] of the next n samples, until all are there.

    Where a GPU has too little memory for a batch, the rest is computed in smaller ones.
    """
    size, done = batch_size(module, request), 0
    with _evaluating(module):
        while done < len(request):
            rows = _rows(done, size, request)
            try:
                pixels = _sample_batch(module, request, rows if request.exact else sorted({*rows}), callback)
            except torch.OutOfMemoryError as error:
                size = _smaller(module, request, size, error)
                continue
            yield pixels[: len(request) - done]
            done += size


def batch_size(module: T2XModule, request: Request) -> int:
    """Samples to compute at once: as many as free memory allows, in batches of about the same size."""
    if request.batch_size is not None:
        return request.batch_size
    if request.exact or len(request) == 1:
        return 1
    device = next(module.backbone.parameters()).device
    room = _free(device)
    most = min(MOST_AT_ONCE.get(device.type, 8), int(SHARE * room / bytes_per_sample(module, request)))
    batches = -(-len(request) // max(1, most))
    return -(-len(request) // batches)


def bytes_per_sample(module: T2XModule, request: Request) -> int:
    """What one sample of a batch takes while it is computed, at most: an estimate from the shapes alone."""
    config, bucket = module.backbone.config, request.bucket
    shape = module.latent_shape(bucket, request.conditions.task)
    tokens = shape.frames * (shape.height // config.patch_size) * (shape.width // config.patch_size)
    one = module.with_text(request.conditions.select([0]))
    words = sum(text.ids.shape[1] for text in one.text.values())
    words += sum(text.tokens.shape[1] for text in one.encoded_text.values())
    both = 1 if request.settings.guidance == 1 else 2
    kept = 2 * config.depth * words  # keys and values of the text, which `ConditioningCache` holds
    numbers = both * config.width * (TOKEN_COPIES * tokens + kept)
    return 4 * (numbers + PIXEL_COPIES * 3 * bucket.frames * bucket.height * bucket.width)


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    room = free_memory()
    return 4 * GIB if room is None else room


def _smaller(module: T2XModule, request: Request, size: int, error: Exception) -> int:
    """The size of batches after one did not fit into the memory; UserError if nothing helps."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if size > 1 and not request.exact:
        log.warning("a batch of %d does not fit into the memory: %d at once", size, -(-size // 2))
        return -(-size // 2)
    if module.codec.part.save_memory():
        log.warning("the memory is short: the codec works in tiles")
        return size
    hint = "ask for smaller ones, or try --offload and --precision bf16"
    raise UserError(f"{counted(size, 'sample', 'do')} not fit into the memory", hint=hint) from error


def _sample_batch(module: T2XModule, request: Request, rows: list[int], callback: Callback) -> Tensor:
    conditions, config, bucket = request.conditions.select(rows), request.settings, request.bucket
    device = next(module.backbone.parameters()).device
    shape = module.latent_shape(bucket, conditions.task)
    noise = keyed.normal([keyed.key(request.seeds[i], "sample") for i in rows], shape, device)
    with arithmetic(request.precision, device):
        conditioning, null = _conditionings(module, conditions, shape, device)
        if request.negative is not None and config.guidance != 1:
            null = _conditionings(module, request.negative.select(rows), shape, device)[0]
        _release_encoders(module, device)
        with module.calls(f"tasks.{conditions.task}", "adapter.null", conditions):
            velocity = guided(
                lambda: partial(module.velocity, cache=ConditioningCache()),
                *(conditioning, null, config.guidance, config.guidance_interval, config.guidance_rescale),
            )
        times = module.path.time(grid(config.steps, 1.0, device), module.shift(shape, config.shift))
        latents = SAMPLERS[config.name](velocity, module.path.start(noise, times[0]), times, callback)
    return module.decode(latents, conditions.task, request.preview).clamp(-1, 1)


def _conditionings(
    module: T2XModule, conditions: Batch, shape: LatentShape, device: torch.device
) -> tuple[Conditioning, Conditioning]:
    batch = module.encode(module.with_text(conditions).to(device))
    return module.conditionings(batch, shape)


def _release_encoders(module: T2XModule, device: torch.device) -> None:
    """Frozen text encoders leave the accelerator once a batch's texts are encoded; they come back with the next."""
    if device.type != "cpu":
        for encoder in module.frozen_encoders.values():
            if encoder.loaded:
                encoder.on(torch.device("cpu"))


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The autocast of a precision; latents, times and the codec stay as they are. UserError if it cannot be here."""
    if precision not in PRECISIONS:
        raise UserError(f'there is no precision "{precision}"', hint=f"it is one of {', '.join(PRECISIONS)}")
    dtype = PRECISIONS[precision]
    if dtype is torch.float16 and device.type != "cuda":
        raise UserError("fp16 needs a GPU", hint="32-true and bf16 work on a CPU")
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def offload_blocks(module: T2XModule, device: torch.device) -> None:
    """Moves a module to a device, all but the backbone's blocks: the weights of each are there while it computes.

    So a network needs the memory of one block and of what it computes, and sampling waits for the copies.
    """
    blocks = module.backbone.blocks
    module.backbone.blocks = nn.ModuleList()
    module.to(device)
    module.backbone.blocks = blocks
    for block in blocks:
        home = {
            p: p.data.pin_memory() if device.type == "cuda" else p.data for p in (*block.parameters(), *block.buffers())
        }

        def fetch(block: nn.Module, inputs: object, home: dict[Tensor, Tensor] = home) -> None:
            for tensor, data in home.items():
                tensor.data = data.to(device, non_blocking=True, copy=True)

        def release(block: nn.Module, inputs: object, output: object, home: dict[Tensor, Tensor] = home) -> None:
            for tensor, data in home.items():
                tensor.data = data

        block.register_forward_pre_hook(fetch)
        block.register_forward_hook(release, always_call=True)


def compile_blocks(module: T2XModule) -> None:
    """Compiles the blocks of the backbone, once for each shape of a batch; it takes a while at the first step."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    for block in module.backbone.blocks:
        block.compile(dynamic=False)
