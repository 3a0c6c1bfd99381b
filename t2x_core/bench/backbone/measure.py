"""Measures the cells."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch._dynamo.exc import TorchDynamoException

from t2x_core.backbone.windows import resolve_window
from t2x_core.bench.backbone.counting import count
from t2x_core.bench.backbone.memory import peak_on_cpu, peak_on_cuda
from t2x_core.bench.backbone.networks import Inputs, Network, build
from t2x_core.bench.backbone.options import LEAST_ROUNDS, Grid, Options
from t2x_core.bench.backbone.results import Cell, Entry, Results
from t2x_core.bench.backbone.rounds import run_rounds
from t2x_core.bench.machine import machine

LEAST_SECONDS = {"cpu": 0.1, "cuda": 0.02}
"""A turn, or a measurement of the machine, is repeated until it takes about so long."""


class Bench:
    """Measures cells; builds each network once."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.device = torch.device(options.device)
        precision = {"float32_matmul_precision": torch.get_float32_matmul_precision()}
        self.results = Results(machine(), asdict(options) | precision)
        self._kept: dict[str, Network] = {}

    def measure(self, grid: Grid, pass_: str) -> Cell:
        """One token grid and one pass; what is known of it is also added to `results`."""
        options, backward = self.options, pass_ == "backward"
        inputs = Inputs.make(options, grid, self.device)
        torch._dynamo.reset()  # a limit of shapes is then never met
        entries: dict[str, Entry] = {}
        calls: dict[str, Callable[[], float]] = {}
        for variant in options.variants_of(grid, pass_):
            plain = self._network(variant, grid)
            flops = count(variant, options, grid, backward)
            for compiled in options.compiled:
                entry = Entry(variant, compiled, flops.network, flops.blocks)
                entries[entry.name] = entry
                call = Call(plain.compiled(backward) if compiled else plain.fresh(), inputs, backward, options)
                try:
                    entry.memory = call.warm_up(compiled)
                    calls[entry.name] = call.turn
                except (TorchDynamoException, RuntimeError, MemoryError) as error:
                    entry.failure = _reason(error)
        if calls:
            peak = MatrixPeak(options, math.prod(grid), self.device)
            for name, turns in run_rounds(calls, peak, options.rounds, options.budget, LEAST_ROUNDS).items():
                entries[name].seconds, entries[name].peaks = turns.seconds, turns.peaks
        cell = Cell(grid, resolve_window("auto", grid), pass_, list(entries.values()))
        self.results.cells.append(cell)
        return cell

    def _network(self, variant: str, grid: Grid) -> Network:
        """Built once; PixArt anew for each grid, whose positions are part of it."""
        if variant not in self._kept or variant == "pixart":
            self._kept[variant] = build(variant, self.options, grid, self.device)
            self.results.parameters[variant] = self._kept[variant].parameters
        return self._kept[variant]


def _reason(error: Exception) -> str:
    """Why a network cannot be measured; raises what is neither a matter of memory nor of the compiler."""
    from t2x_core.training.out_of_memory import is_out_of_memory  # with Lightning, which is not wanted otherwise

    if is_out_of_memory(error):
        return "out of memory"
    if isinstance(error, TorchDynamoException):
        return f"cannot be compiled: {str(error).strip().splitlines()[0]}"
    raise error


class Call:
    """One call of a network, and how often a turn repeats it."""

    def __init__(self, network: Network, inputs: Inputs, backward: bool, options: Options) -> None:
        self.network, self.inputs, self.backward = network, inputs, backward
        self.device = inputs.latents.device
        self.mixed = options.precision == "bf16-mixed"
        self.repeats = 1

    def __call__(self) -> None:
        self.release()
        with torch.set_grad_enabled(self.backward):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
                output = self.network(self.inputs)
            if self.backward:
                output.backward(self.inputs.gradient.view_as(output).to(output.dtype))

    def warm_up(self, compiled: bool) -> int | None:
        """Calls until nothing is done for the first time any more; returns the memory of a call."""
        cuda = self.device.type == "cuda"
        if cuda or compiled or self.network.keeps:
            self()
        began = time.perf_counter()
        memory = peak_on_cuda(self, self.device) if cuda else None if compiled else peak_on_cpu(self)
        least = LEAST_SECONDS[self.device.type]
        if time.perf_counter() - began < 4 * least:
            self.repeats = max(1, math.ceil(least / self.turn()))
        self.release()
        return memory

    def turn(self) -> float:
        """Seconds of one call."""
        seconds = seconds_of(self, self.repeats, self.device)
        self.release()
        return seconds

    def release(self) -> None:
        """Gives back the gradients."""
        for parameter in self.network.model.parameters():
            parameter.grad = None


class MatrixPeak:
    """Operations per second of the widest product of a block, (B·N, D) · (D, 4·D), without that of a bias.

    Nothing but the product: its result has a place already.
    """

    def __init__(self, options: Options, tokens: int, device: torch.device) -> None:
        rows, D = options.batch * tokens, options.width
        dtype = torch.float32 if options.precision == "32-true" else torch.bfloat16
        self.device = device
        self.x = torch.randn(rows, D, device=device).to(dtype)
        self.weight = torch.randn(4 * D, D, device=device).to(dtype).T  # as a Linear has it
        self.out = torch.empty(rows, 4 * D, device=device, dtype=dtype)
        self.flops = 2 * rows * D * 4 * D
        self._multiply()
        self.repeats = max(1, math.ceil(LEAST_SECONDS[device.type] / seconds_of(self._multiply, 1, device)))

    def _multiply(self) -> None:
        torch.mm(self.x, self.weight, out=self.out)

    def __call__(self) -> float:
        return self.flops / seconds_of(self._multiply, self.repeats, self.device)


def seconds_of(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Seconds of one of `repeats` calls in a row; on a GPU until all of them are done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - began) / repeats
