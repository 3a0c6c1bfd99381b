"""What is checked of a task's conditioning and loss."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from fnmatch import fnmatch
from typing import ClassVar

import torch
from torch import Tensor

from t2x_core.data.repeat import first_difference
from t2x_core.module import T2XModule
from t2x_core.testing.base import loose_tensors
from t2x_core.testing.task_data import TaskDataTests
from t2x_core.types import Batch, Conditioning, ConditioningDims, LatentShape

TRIES = 6
"""Batches after which a parameter without a gradient has none."""


class TaskModelTests(TaskDataTests):
    """The part of `TaskTests` on adapter and loss."""

    without_gradient: ClassVar[Sequence[str]] = ()
    """Names of parameters that need no gradient, such as "adapter.table.*"."""

    def test_its_conditioning_is_as_promised(self) -> None:
        """adapter: what forward returns is as wide as dims says, for one sample and for several, in float32 and bf16"""
        rig = self.rig
        for batch in (rig.batch, rig.batch.select([0])):
            for bf16 in (False, True):
                with _autocast(bf16), torch.no_grad():
                    self._conditionings(rig.module, batch)

    def test_its_conditioning_can_be_dropped(self) -> None:
        """adapter: null has the parts and shapes of forward, and says something else"""
        rig, module = self.rig, self.rig.module
        with torch.no_grad():
            given, null = self._conditionings(module, rig.batch)
        adapter = module.adapters[self.rig.task.name]
        if any(part is not None for part in _parts(given)) and all(
            a is None or b is None or torch.equal(a, b.to(a)) for a, b in zip(_parts(given), _parts(null), strict=True)
        ):
            hint = "return what stands for no condition: a learned vector, or zeros"
            raise rig.refuse("null is what forward returns, so that nothing is dropped", hint, _method(adapter, "null"))
        for dropped in (True, False):
            given.where(torch.full((len(rig.batch),), dropped), null)

    def test_its_loss_in_float32(self) -> None:
        """loss: one finite value a sample, in float32"""
        self._check_loss(False)

    def test_its_loss_under_bf16(self) -> None:
        """loss: the same under bf16 autocast, where matrix products are bfloat16; near to that in float32"""
        exact, rough = self._check_loss(False), self._check_loss(True)
        if not torch.allclose(exact, rough, rtol=0.2, atol=0.05):
            hint = "compute what is geometric, and the loss, in float32: .float(), or torch.autocast(…, enabled=False)"
            raise self.rig.refuse(
                f"the loss of a sample is {rough[0]:.3g} under bf16 autocast, {exact[0]:.3g} in float32",
                hint,
                type(self.rig.task).loss,
            )

    def test_each_parameter_has_a_gradient(self) -> None:
        """gradients: every parameter of the adapter and of the loss has one, and it is finite"""
        rig = self.rig
        module = _stirred(rig.module)
        parts = {"adapter": module.adapters[self.rig.task.name], "loss": module.losses[self.rig.task.name]}
        named = {f"{part}.{n}": p for part, m in parts.items() for n, p in m.named_parameters() if p.requires_grad}
        lacking = set(named)
        for attempt in range(TRIES):
            keys = tuple(key._replace(step=attempt) for key in rig.batch.keys)
            module.training_step(replace(rig.batch, keys=keys), 0)["loss"].backward()
            lacking = {name for name, p in named.items() if p.grad is None or not p.grad.any()}
            if not lacking:
                break
        for name, parameter in named.items():
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                raise rig.refuse(f"the gradient of {name} is not finite", "look for a root or a logarithm of 0")
        lacking = {n for n in lacking if not any(fnmatch(n, pattern) for pattern in self.without_gradient)}
        if lacking:
            first = min(lacking)
            code = type(parts[first.partition(".")[0]])
            hint = "use it in forward or null, remove it, or call requires_grad_(False) (in a test: without_gradient)"
            raise rig.refuse(f"{first} never gets a gradient, in {TRIES} batches", hint, code)

    def test_its_parts_can_be_stored(self) -> None:
        """checkpoints: what is loaded from stored parameters and buffers computes the same"""
        rig, module = self.rig, self.rig.module
        parts = {"adapter": module.adapters[self.rig.task.name], "loss": module.losses[self.rig.task.name]}
        for name, part in parts.items():
            if loose := loose_tensors(part):
                hint = f'write self.register_buffer("{loose[0]}", …)'
                raise rig.refuse(
                    f"{loose[0]} of the {name} is a tensor that is neither saved nor moved", hint, type(part)
                )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            other = _other(rig.assembly(seed=1))
        stored = {name: tensor.detach().clone() for name, tensor in module.stored().items()}
        if lacking := sorted(other.stored().keys() ^ stored.keys()):
            raise rig.refuse(f"{lacking[0]} is there for one seed and not for another", "make the same parts always")
        other.load_state_dict(stored)
        with torch.no_grad():
            found = [self._conditionings(m.eval(), rig.batch) for m in (module, other)]
        module.train()
        before, after = ([_parts(c) for c in pair] for pair in found)
        if first_difference(before, after) is not None:
            hint = "keep what is random about a part in parameters or in persistent buffers"
            raise rig.refuse("its conditioning is another after loading", hint, type(parts["adapter"]))

    def _conditionings(self, module: T2XModule, batch: Batch) -> tuple[Conditioning, Conditioning]:
        encoded = module.encode(batch)
        assert encoded.latents is not None
        return module.conditionings(encoded, LatentShape(*encoded.latents.shape[1:]))

    def _check_loss(self, bf16: bool) -> Tensor:
        """The loss of each sample, (B,)."""
        rig = self.rig
        with _autocast(bf16):
            losses: Tensor = _stirred(rig.module).training_step(rig.batch, 0)["losses"]
        code = type(rig.task).loss
        if not losses.isfinite().all():
            raise rig.refuse(
                f"the loss of a sample is {losses.tolist()}", "look for a division by 0 or a root of it", code
            )
        if losses.dtype != torch.float32:
            raise rig.refuse(f"the loss is {losses.dtype}".replace("torch.", ""), "make it float32: .float()", code)
        return losses


def _method(part: object, name: str) -> object:
    return getattr(type(part), name)


def _parts(conditioning: Conditioning) -> list[Tensor | None]:
    return [getattr(conditioning, field.name) for field in fields(ConditioningDims)]


def _autocast(on: bool) -> AbstractContextManager[None]:
    return torch.autocast("cpu", torch.bfloat16, enabled=on)


def _stirred(module: T2XModule) -> T2XModule:
    """A copy whose backbone is not as at the start: there, its last layer is zero, and so is every gradient below."""
    other = copy.deepcopy(module)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.backbone.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))
    return other


def _other(assembly: object) -> T2XModule:
    from t2x_core.assembly import Assembly, build_module

    assert isinstance(assembly, Assembly)
    return build_module(assembly)
