"""Ranks that have different recipes, software or data end before the first step; paused ones are not taken for dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.awake import AwakeClock
from t2x_core.errors import TrainingError, UserError
from t2x_core.training.parallel import Launch, Ranks, launched, sameness
from t2x_core.training.parallel.launch import PARENT
from tests.conftest import TINY

EACH = """
import os, sys
from t2x_core.cli.main import main
mine = [w for w in sys.argv[1:] if not w.startswith("rank1:")]
if os.environ["RANK"] == "1":
    mine += [w.removeprefix("rank1:") for w in sys.argv[1:] if w.startswith("rank1:")]
sys.exit(main(mine))
"""


@pytest.fixture(scope="module")
def own() -> sameness.Facts:
    assembly = load_assembly("quickstart", list(TINY))
    data = build_data(assembly, build_module(assembly))
    data.check()
    return sameness.facts(assembly, data, {"resume": False})


def test_what_is_the_same_does_not_differ(own):
    assert sameness.difference(1, own, own) is None
    assert own["software"].keys() >= {"t2x", "torch", "lightning", "python"}


@pytest.mark.parametrize(
    ("part", "name", "value", "says"),
    [
        (
            "recipe",
            "optimizer.lr",
            5,
            "rank 3 does not have the same recipe as rank 0: optimizer.lr (5, not 0.002); start",
        ),
        ("recipe", "something.new", 1, "something.new (1, not not set)"),
        ("software", "torch", "1.0", "rank 3 does not have the same software as rank 0: torch (1.0, not "),
        ("software", "the code of t2x", "x", "the code of t2x (x, not "),
        ("hardware", "precision", "bf16-mixed", "precision (bf16-mixed, not 32-true); set trainer.precision"),
        ("data", "text-to-image.train.names", "0a", "the same data as rank 0: text-to-image.train.names (0a, not "),
        ("options", "resume", True, "resume (True, not False); start all ranks by the same command"),
    ],
)
def test_what_differs_is_named(own, part, name, value, says):
    first = {**own, "hardware": {**own["hardware"], "precision": "32-true"}}
    here = {**first, part: {**first[part], name: value}}
    assert says in str(sameness.difference(3, here, first))


def test_a_clock_that_stands_still_in_a_pause():
    now = [0.0]
    clock = AwakeClock(1.0, lambda: now[0])
    for seconds in (1.0, 1.5, 3600.0, 1.0):
        now[0] += seconds
        clock.tick()
    assert clock.seconds == 1.0 + 1.5 + 2.0 + 1.0


def test_one_process_decides_for_itself():
    with Ranks(Launch()) as ranks:
        assert ranks.decide(lambda: 7) == 7
        ranks.agree(None)
        with pytest.raises(UserError, match="what is wrong"):
            ranks.agree("what is wrong")


def test_a_child_whose_parent_is_gone_does_not_start():
    said = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    with (
        pytest.raises(TrainingError, match=r"rank 0 \(process 1234567\).* is gone"),
        Ranks(launched({**said, PARENT: "1234567"})),
    ):
        pass


def torchrun(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "each.py").write_text(EACH)
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    return subprocess.run(
        [*run, "--rdzv-endpoint=127.0.0.1:0", "each.py", "fit", "quickstart", *TINY, "trainer.devices=2", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_ranks_with_other_recipes_end_before_the_first_step(tmp_path):
    done = torchrun(tmp_path, "rank1:seed=5")
    assert done.returncode
    lines = [line for line in done.stderr.splitlines() if line.startswith("t2x:")]
    assert len(lines) == 1
    assert lines[0].startswith("t2x: rank 1 does not have the same recipe as rank 0: seed (5, not 0); ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_mistake_on_one_rank_alone_ends_all(tmp_path):
    done = torchrun(tmp_path, "rank1:trainer.devices=4")
    assert done.returncode
    assert "torchrun started 2 processes, the recipe asks for 4" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_tasks_of_slurm_train_and_a_first_one_that_dies_at_the_start_is_named(tmp_path):
    """As srun would start them: no torchrun, which would end the others itself."""
    said = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NODEID": "0"}
    command = [sys.executable, "-m", "t2x_core.cli.main", "fit", "quickstart", *TINY, "trainer.devices=2"]

    def task(rank: int) -> subprocess.Popen[str]:
        environ = {**os.environ, **said, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
        return subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True)

    both = [task(0), task(1)]
    assert [process.wait(300) for process in both] == [0, 0]
    second, first = task(1), task(0)
    time.sleep(25)  # the first keeps the store by then, or has not begun to: both are named
    first.send_signal(signal.SIGKILL)
    assert second.wait(300) in (2, 3)
    assert "rank 0" in second.stderr.read()


@pytest.mark.slow
def test_ranks_that_are_paused_together_go_on(tmp_path):
    command = [sys.executable, "-m", "t2x_core.cli.main", "fit", "quickstart", *TINY, "trainer.devices=2"]
    process = subprocess.Popen(
        [*command, "trainer.max_steps=100000", "--folder", "run"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    try:
        while not (tmp_path / "run" / "checkpoints").exists():
            assert process.poll() is None
            time.sleep(0.2)
        (child,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        for pid in (process.pid, child):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(32)
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(3)
        os.kill(child, signal.SIGCONT)
        time.sleep(10)
        assert process.poll() is None, process.stderr.read()
    finally:
        process.kill()
