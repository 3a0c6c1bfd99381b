"""The batch of a training step once more, from the recipe alone: no checkpoint, no GPU, no other rank."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2x_core.assembly import Assembly, build_data, build_module, load_assembly
from t2x_core.diffusion import Draws
from t2x_core.errors import UserError
from t2x_core.runs import RECIPE_FILE
from t2x_core.training.run_folder import NAN_REPORT
from t2x_core.types import Batch, RenderedSamples


@dataclass(frozen=True)
class Replay:
    """What a training step saw: the whole global batch, in the order of the slots."""

    assembly: Assembly
    step: int
    """Counted from 1, as in the log, in TensorBoard and in the report of skipped steps."""
    attempt: int
    batch: Batch
    draws: Draws
    """`noise` is that of the first samples only, as many as are in `noised`."""
    clean: Tensor
    """(n, 3, F, H, W): the first n samples, encoded and decoded; about [-1, 1]."""
    noised: Tensor
    """(n, 3, F, H, W): the first n samples as the network saw them, decoded; about [-1, 1]."""
    report: dict[str, Any] | None
    """The line of the report on this step and attempt, if it was skipped."""

    def table(self) -> str:
        """A line a sample: slot, id, t, whether the condition was dropped, the loss if the report has it, caption."""
        losses = {sample["slot"]: sample["loss"] for sample in self.report["samples"]} if self.report else {}
        head = ("slot", "id", "t", "dropped", *(["loss"] if losses else []))
        rows = [head]
        for key, t, dropped in zip(self.batch.keys, self.draws.t.tolist(), self.draws.dropped.tolist(), strict=True):
            loss = [f"{float(losses[key.slot]):.4f}"] if key.slot in losses else []
            rows.append((str(key.slot), str(key.id), f"{t:.4f}", "yes" if dropped else "no", *loss))
        widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(head))]
        captions = ("caption", *self.batch.captions)
        return "\n".join(
            "  ".join([*map(str.rjust, row, widths), caption]) for row, caption in zip(rows, captions, strict=True)
        )

    def render(self) -> RenderedSamples:
        """The samples of `noised` as the task shows them: clean on the left, noised on the right, both as decoded."""
        shown, task = self.batch.select(list(range(len(self.noised)))), self.assembly.task(self.batch.task)
        clean, noised = (task.render(pixels.clamp(-1, 1), shown) for pixels in (self.clean, self.noised))
        return RenderedSamples(torch.cat([clean.frames, noised.frames], dim=2), clean.fps)


@torch.no_grad()
def replay(run: Path, step: int, attempt: int | None = None, images: int = 16) -> Replay:
    """Rebuilds the batch of optimizer step `step` of a run, to the last bit.

    Args:
        run: its folder.
        step: counted from 1.
        attempt: roll-backs before it; None: as the report of skipped steps last says, or else 0.
        images: samples that are noised and decoded, at most.

    Raises:
        UserError: the recipe does not hold any more, its data is gone, or the report is no report.
    """
    report = find_report(run / NAN_REPORT, step, attempt)
    assembly = load_assembly(str(run / RECIPE_FILE), [])
    module = build_module(assembly)
    data = build_data(assembly, module)
    data.check()
    attempt = attempt if attempt is not None else report["attempt"] if report else 0
    batch = data.batch(step - 1, attempt)
    shown = batch.select(list(range(min(images, len(batch)))))
    latents = module.encode(shown).latents
    assert latents is not None
    draws = module.draw(batch.keys, latents)
    draws = Draws(draws.t, draws.noise[: len(shown)], draws.dropped)
    noised = module.path.corrupt(latents, draws.noise, draws.t[: len(shown)])
    clean, pixels = (module.decode(x, shown.task) for x in (latents, noised.latents))
    return Replay(assembly, step, attempt, batch, draws, clean, pixels, report)


def find_report(file: Path, step: int, attempt: int | None) -> dict[str, Any] | None:
    """The last line of a report of skipped steps on this step, and on this attempt unless it is None.

    A line that is no JSON is passed over: a killed run has not finished it.
    """
    found = None
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines() if file.is_file() else (), 1):
        with suppress(json.JSONDecodeError):
            line = json.loads(text)
            if not (isinstance(line, dict) and {"step", "attempt", "reason", "samples"} <= line.keys()):
                hint = "mend it, or move the file away"
                raise UserError(f"line {number} is no report of a skipped step", where=str(file), hint=hint)
            if line["step"] == step and attempt in (None, line["attempt"]):
                found = line
    return found
