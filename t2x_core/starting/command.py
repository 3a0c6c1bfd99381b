"""What `t2x new` does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from t2x_core.assembly import build_module, load_assembly
from t2x_core.errors import UserError
from t2x_core.starting.machine import Machine, this_machine
from t2x_core.starting.rules import Choice, first_choice, fit_to, settings
from t2x_core.starting.summary import Look, Setting
from t2x_core.starting.write import plain, recipe_text
from t2x_core.terminal import command, sample_command
from t2x_core.training.gpus import known_gpu
from t2x_core.training.plan import Plan, make_plan
from t2x_core.training.plan_text import cost_lines, memory_line
from t2x_core.wording import counted


def write_recipe(look: Look, folder: Path, file: Path, machine: Machine | None = None) -> list[str]:
    """Looks at a folder and writes a recipe for it; returns lines on what was found, and what to do next.

    Raises:
        UserError: there is nothing to train on, or the file is there already, or cannot be written.
    """
    machine = machine or this_machine()
    summary = look(folder, machine)
    _check_free(file)
    choice, plan = fit_to(first_choice(summary, machine), _plan)
    where = os.path.relpath(os.path.realpath(folder), os.path.realpath(file.parent))
    place = f"tasks.{summary.task}.data.{summary.block}.folder"
    what = counted(summary.count, summary.noun)
    steps = _next(file, choice)
    head = [
        f"{summary.task} on {what} in {where}, for {machine}. Written by `t2x new`: change what you like.",
        "",
        *(f"  {step}" for step in steps),
    ]
    own = [Setting(place, where, f"{what}; relative to this file"), *settings(choice)]
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(recipe_text(head, choice.base, own))
    except FileExistsError:
        _check_free(file)
        raise
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}", where="command line") from error
    return [
        f"machine    {machine}",
        *(f"{'' if i else 'data':11}{line}" for i, line in enumerate(summary.lines)),
        f"recipe     {file}: from {choice.base}, {choice.size} pixels, {choice.steps:,} steps of {choice.batch}",
        *cost_lines(plan),
        memory_line(plan),
        *(f"{'' if i else 'next':11}{step}" for i, step in enumerate(steps)),
    ]


def _check_free(file: Path) -> None:
    if file.exists() or file.is_symlink():
        hint = "nothing is overwritten: choose another name by --out"
        raise UserError(f"{file} is there already", where="command line", hint=hint)


def _plan(choice: Choice) -> Plan:
    """What the recipe would take, from the shapes alone."""
    overrides = [f"{one.key}={plain(one.value)}" for one in settings(choice)]
    assembly = load_assembly(choice.base, overrides)
    return make_plan(assembly, build_module(assembly, outline=True), None, known_gpu(choice.machine.gpu))


def _next(file: Path, choice: Choice) -> Sequence[str]:
    summary, name = choice.summary, file.stem
    encode = [f"{command('t2x', 'cache', file)}  # encodes all once"] if choice.latents else []
    return [
        f"{command('t2x', 'data', 'check', file)}  # names what is damaged, doubled or odd",
        f"{command('t2x', 'fit', file, '--dry-run')}  # looks at every {summary.noun}, and tries one step",
        *encode,
        f"{command('t2x', 'fit', file)}",
        f"{sample_command(name, summary.example, '--out', 'x.png')}",
    ]
