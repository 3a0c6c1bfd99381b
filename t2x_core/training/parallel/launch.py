"""Which process this is of how many: what launchers say in environment variables, and what of it is half set.

Nothing else reads these variables, Lightning included (`Environment`): a left-over of another launcher must not make
processes wait for ranks that never come, or train apart.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lightning.fabric.plugins.environments import SLURMEnvironment

from t2x_core.errors import TrainingError, UserError

PARENT = "T2X_STARTED_BY"
"""Environment variable: the id of the t2x process that started this one as another rank."""
SAID = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun, and others that start processes as it does, set for each of them."""
RANKISH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK")
"""Those of which a single one says that somebody means to start several processes."""
OTHERS = {
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpiexec",
    "MV2_COMM_WORLD_SIZE": "mpirun",
    "JSM_NAMESPACE_SIZE": "jsrun",
    "FLUX_JOB_SIZE": "flux",
}
"""How many processes other launchers have started: variable → launcher."""


@dataclass(frozen=True)
class Launch:
    """Where this process stands."""

    by: Literal["t2x", "torchrun", "srun"] = "t2x"
    """Who starts the processes; `t2x`: the first one starts the others, all on its machine."""
    rank: int = 0
    """Of all processes of the run."""
    local_rank: int = 0
    """Of those on this machine."""
    node: int = 0
    """Which machine this is."""
    ranks: int | None = None
    """How many there are; None: this one is the first, and is to start the others."""
    local_ranks: int | None = None
    """How many there are on this machine, if that is said."""
    address: str = "127.0.0.1"
    """Of the first rank's machine."""
    port: int = 0
    patience: float = 300.0
    """Seconds to wait for the other ranks to come."""
    served: bool = False
    """Whether torchrun itself keeps a key-value store at that address."""
    job: str = ""
    """Something that another run at the same address does not share."""
    parent: int | None = None
    """The process that started this one, if it was t2x."""

    def check_parent(self) -> None:
        """TrainingError if the first rank, which started this one, has ended."""
        if self.parent is not None and os.getppid() != self.parent:
            raise TrainingError(f"rank 0 (process {self.parent}), which started the others, is gone")


def launched(environ: Mapping[str, str] = os.environ) -> Launch:
    """What the environment says; UserError for what is half set, no number, or contradicts itself."""
    variables = _Variables(environ)
    if PARENT in environ:
        return _from_torchrun(variables, "t2x")
    if "TORCHELASTIC_RUN_ID" in environ or all(name in environ for name in SAID):
        return _from_torchrun(variables, "torchrun")
    if _is_srun(variables):
        return _from_srun(variables)
    if there := [name for name in RANKISH if name in environ]:
        raise _half_set(environ, there)
    for name, launcher in OTHERS.items():
        if name in environ and variables.number(name) > 1:
            raise UserError(
                f"{launcher} has started {environ[name]} processes ({name}), and would train as many runs",
                where="environment",
                hint=f"start them by torchrun or srun, or set {', '.join(SAID)} for each; else unset {name}",
            )
    return Launch()


class _Variables:
    """Environment variables that must be there, or be numbers."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ

    def number(self, name: str, least: int = 0, most: int | None = None) -> int:
        text = self.environ.get(name, "")
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
        if value is None or value < least or (most is not None and value > most):
            limits = f"from {least} to {most}" if most is not None else f"of at least {least}"
            raise UserError(f'{name} is "{text}", not a number {limits}', where="environment", hint=_repair(name))
        return value


def _repair(*names: str) -> str:
    listed = ", ".join(names)
    return f"unset {listed}, or start the processes by torchrun or srun, which set all that is needed"


def _half_set(environ: Mapping[str, str], there: list[str]) -> UserError:
    missing = [name for name in SAID if name not in environ]
    verb = "is" if len(there) == 1 else "are"
    lacking = "is not" if len(missing) == 1 else "are not"
    return UserError(
        f"{', '.join(there)} {verb} set, and {', '.join(missing)} {lacking}: "
        "so it is not known which rank this is, of how many",
        where="environment",
        hint=_repair(*there),
    )


def _from_torchrun(variables: _Variables, by: Literal["t2x", "torchrun"]) -> Launch:
    environ = variables.environ
    if any(name not in environ for name in SAID):
        launcher = "TORCHELASTIC_RUN_ID" if by == "torchrun" else PARENT
        raise _half_set(environ, [launcher, *(name for name in RANKISH if name in environ)])
    ranks = variables.number("WORLD_SIZE", 1)
    local_ranks = variables.number("LOCAL_WORLD_SIZE", 1) if "LOCAL_WORLD_SIZE" in environ else None
    return Launch(
        by,
        rank=variables.number("RANK", 0, ranks - 1),
        local_rank=variables.number("LOCAL_RANK", 0, (local_ranks or ranks) - 1),
        node=variables.number("GROUP_RANK") if "GROUP_RANK" in environ else 0,
        ranks=ranks,
        local_ranks=local_ranks,
        address=_address(environ["MASTER_ADDR"]),
        port=variables.number("MASTER_PORT", 1, 65535),
        # Who sets the variables by hand is not kept waiting for long; torchrun starts all of them, sooner or later.
        patience=300 if by == "t2x" or "TORCHELASTIC_RUN_ID" in environ else 60,
        served=by == "torchrun" and environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        job="" if by == "t2x" else _joined(environ, "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"),
        parent=variables.number(PARENT) if by == "t2x" else None,
    )


def _is_srun(variables: _Variables) -> bool:
    """Whether srun has started this process; UserError if SLURM means to start several, and srun has not."""
    environ = variables.environ
    if "SLURM_NTASKS" not in environ and "SLURM_PROCID" not in environ:
        return False
    interactive = environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if "SLURM_NTASKS" not in environ:  # sbatch without --ntasks
        if variables.number("SLURM_PROCID") > 0:
            raise UserError(
                "SLURM_PROCID is set, and SLURM_NTASKS is not: so it is not known of how many ranks this is one",
                where="environment",
                hint="unset SLURM_PROCID, or start it by srun",
            )
        return False
    tasks = variables.number("SLURM_NTASKS", 1)
    if "SLURM_PROCID" not in environ:
        if tasks > 1 and not interactive:
            raise UserError(
                f"SLURM has {tasks} tasks (SLURM_NTASKS), and this process is none of them (no SLURM_PROCID)",
                where="environment",
                hint="start it by srun, or unset SLURM_NTASKS to train with this process alone",
            )
        return False
    return not (interactive and (tasks == 1 or "SLURM_STEP_ID" not in environ))


def _from_srun(variables: _Variables) -> Launch:
    environ = variables.environ
    ranks = variables.number("SLURM_NTASKS", 1)
    rank = variables.number("SLURM_PROCID", 0, ranks - 1)
    for name, value, of in (("WORLD_SIZE", ranks, "SLURM_NTASKS"), ("RANK", rank, "SLURM_PROCID")):
        if name in environ and environ[name] != str(value):
            raise UserError(
                f"{name} is {environ[name]}, and {of} is {value}", where="environment", hint=f"unset {name}"
            )
    if missing := [name for name in ("SLURM_LOCALID", "SLURM_NODEID") if name not in environ]:
        raise UserError(
            f"SLURM_PROCID is set, and {' and '.join(missing)} not: so it is not known which device is this rank's",
            where="environment",
            hint="start it by srun, which sets them, or unset SLURM_PROCID and SLURM_NTASKS",
        )
    hosts = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_NODELIST") or environ.get("SLURM_JOB_NODELIST")
    job = variables.number("SLURM_JOB_ID") if "SLURM_JOB_ID" in environ else 0
    step = environ.get("SLURM_STEP_ID")
    return Launch(
        "srun",
        rank=rank,
        local_rank=variables.number("SLURM_LOCALID", 0, ranks - 1),
        node=variables.number("SLURM_NODEID"),
        ranks=ranks,
        address=_address(
            environ.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(hosts or "127.0.0.1")
        ),
        port=variables.number("MASTER_PORT", 1, 65535) if "MASTER_PORT" in environ else 15000 + job % 10000,
        # In a batch script itself, without srun, all else is set as if this were the first of the tasks.
        patience=300 if step is not None else 60,
        job=_joined(environ, "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"),
    )


def _joined(environ: Mapping[str, str], *names: str) -> str:
    return "/".join(environ.get(name, "") for name in names)


def _address(text: str) -> str:
    if not text.strip():
        raise UserError("MASTER_ADDR is empty", where="environment", hint=_repair("MASTER_ADDR"))
    return text.strip()
