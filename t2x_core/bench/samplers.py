"""Scores of a trained model against what its samples cost: solvers, evaluations and guidance."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from t2x_core.assembly import Assembly, assemble, build_data
from t2x_core.errors import UserError
from t2x_core.generation import T2XPipeline
from t2x_core.recipe import SamplerConfig, Written
from t2x_core.sampling import sample
from t2x_core.training.prompts import task_shape
from t2x_core.types import Bucket

BATCH = 32
"""Samples computed at once."""
EVALUATIONS = "evaluations"
"""The axis of evaluations of the network, in place of `steps`."""


@dataclass(frozen=True)
class Variant:
    """A way to sample, and what came of it."""

    changed: Mapping[str, str]
    """The settings in which it differs from the others."""
    settings: SamplerConfig
    scores: Mapping[str, Sequence[float]]
    """Figure of the task's metric → one value for each seed."""
    seconds: float
    """Of one seed, the median."""

    @property
    def evaluations(self) -> int:
        """Of the network for a sample, one with and without condition counted as one."""
        return evaluations(self.settings)

    def mean(self, figure: str) -> float:
        return statistics.fmean(self.scores[figure])

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        scores = {figure: list(values) for figure, values in self.scores.items()}
        return {
            "settings": dict(self.changed),
            "evaluations": self.evaluations,
            "seconds": self.seconds,
            "scores": scores,
        }


def evaluations(settings: SamplerConfig) -> int:
    """Evaluations of the network for a sample."""
    return 2 * settings.steps - 1 if settings.name == "heun" else settings.steps


def with_evaluations(settings: SamplerConfig, count: int) -> SamplerConfig:
    """As many steps as `count` evaluations allow."""
    return replace(settings, steps=(count + 1) // 2 if settings.name == "heun" else count)


def combinations(assembly: Assembly, axes: Mapping[str, Sequence[str]]) -> list[tuple[dict[str, str], SamplerConfig]]:
    """Each combination of the values of some keys, as they were written, and the settings of it.

    Args:
        axes: key of `diffusion.sampler`, or `evaluations` in place of `steps` → values, as on the command line.

    Raises:
        UserError: there is no such key, or a value is none of its.
    """
    found = []
    for values in itertools.product(*axes.values()):
        changed = dict(zip(axes, values, strict=True))
        own = {f"diffusion.sampler.{'steps' if key == EVALUATIONS else key}": Written(v) for key, v in changed.items()}
        settings = assemble(assembly.composed.with_values(own), assembly.registry).recipe.diffusion.sampler
        found.append((changed, with_evaluations(settings, settings.steps) if EVALUATIONS in axes else settings))
    return found


def bench_samplers(
    pipeline: T2XPipeline,
    task: str | None,
    axes: Mapping[str, Sequence[str]],
    seeds: int,
    samples: int,
    done: Callable[[Variant], None] = lambda variant: None,
) -> list[Variant]:
    """Scores of each combination, on held-out conditions. All start at the same noise.

    Args:
        task: needed if the model was trained on several.
        axes: as `combinations` takes them.
        seeds: how often each is scored, with other noise.
        samples: scored each time.
        done: called with each variant as it is there.

    Raises:
        UserError: the task has no metric, the data is not there, or an axis is wrong.
    """
    assembly, module = pipeline.assembly, pipeline.module
    chosen, todo = assembly.task(task), combinations(assembly, axes)
    data = build_data(assembly, module)
    data.check()
    conditions = data.val_conditions(chosen.name, samples)
    bucket = Bucket(*conditions.shape) if conditions.shape else task_shape(assembly, module, data, chosen.name)
    found = []
    for changed, settings in todo:
        scores: dict[str, list[float]] = {}
        seconds = []
        for seed in range(seeds):
            metric = chosen.metrics()
            if metric is None:
                raise UserError(f"{chosen.name} has no metric to score samples by")
            start = time.perf_counter()
            noise = range(seed * samples, (seed + 1) * samples)
            pixels = sample(module, conditions, noise, bucket, settings, min(BATCH, samples)).cpu()
            seconds.append(time.perf_counter() - start)
            metric.update(pixels, conditions)
            for figure, value in metric.compute().items():
                scores.setdefault(figure, []).append(float(value))
        if not scores:
            raise UserError(f"the metric of {chosen.name} gives no figure for these samples")
        found.append(Variant(changed, settings, scores, statistics.median(seconds)))
        done(found[-1])
    return found
