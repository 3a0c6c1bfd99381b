"""What to set when memory runs out."""

from __future__ import annotations

import math

import torch

from t2x_core.recipe import Recipe
from t2x_core.training.precision import device_count, resolve_precision


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, that of a GPU or of the machine."""
    cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    return cpu or isinstance(error, (torch.OutOfMemoryError, MemoryError))


def hint(recipe: Recipe) -> str:
    """The settings that would save memory and are not on yet, in the order in which to try them.

    Those that a resumed run may change come first; the order of samples and the size of a batch stay the same.
    """
    trainer = recipe.trainer
    ranks = device_count(trainer) * trainer.num_nodes
    resumed = []
    if not trainer.gradient_checkpointing:
        resumed.append("trainer.gradient_checkpointing=true")
    own = [task.global_batch for task in recipe.tasks.values() if task.global_batch is not None]
    shared = trainer.global_batch if trainer.tokens_per_step is None else trainer.batch_multiple
    share = math.gcd(shared, *own) // ranks  # samples of a device in one optimizer step
    parts = next((n for n in range(trainer.accumulation + 1, share + 1) if share % n == 0), None)
    if parts is not None:
        resumed.append(f"trainer.accumulation={parts} (micro-batches of {share // parts})")
    if ranks > 1 and trainer.strategy in ("auto", "ddp") and trainer.precision != "16-mixed":
        resumed.append("trainer.strategy=fsdp2")
    anew = []
    precision = resolve_precision(trainer.precision, trainer.accelerator)
    if resolve_precision("auto", trainer.accelerator) == "bf16-mixed":  # elsewhere it is very slow
        anew += ["trainer.precision=bf16-mixed"] if precision == "32-true" else []
        anew += ["trainer.precision=bf16-true"] if precision != "bf16-true" else []
    anew.append("a smaller backbone")
    advice = f"go on by --resume with {' or '.join(resumed)}; or " if resumed else ""
    return f"{advice}start anew with {' or '.join(anew)}"
