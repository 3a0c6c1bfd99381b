"""docs/parallel.md: the table of what goes with what is what the code accepts, and its commands are understood."""

from __future__ import annotations

import re
from pathlib import Path

from t2x_core.assembly import load_assembly
from t2x_core.cli.main import parse
from t2x_core.errors import UserError
from t2x_core.recipe import TrainerConfig, field_docs
from t2x_core.training.check_launch import TORCHRUN
from t2x_core.training.run_folder import MAY_CHANGE

PAGE = Path(__file__).parents[1] / "docs" / "parallel.md"
STRATEGIES = {
    "auto": ("trainer.devices=1",),
    "ddp": ("trainer.devices=8", "trainer.num_nodes=2"),
    "fsdp2": ("trainer.devices=8", "trainer.num_nodes=2"),
    "hsdp": ("trainer.devices=8", "trainer.num_nodes=2"),
}
SETTINGS = (
    *(f"trainer.precision={name}" for name in ("32-true", "bf16-mixed", "bf16-true", "16-mixed")),
    "trainer.gradient_checkpointing=true",
    "trainer.compile=true",
    "trainer.accumulation=2",
    *(f"optimizer.name={name}" for name in ("adamw", "muon", "lion")),
    "optimizer.freeze=[text_encoders.*]",
)


def goes(strategy: str, setting: str) -> bool:
    """Whether a recipe with both is accepted."""
    try:
        load_assembly(
            "quickstart",
            ["trainer.global_batch=64", f"trainer.strategy={strategy}", *STRATEGIES[strategy], setting],
        )
    except UserError:
        return False
    return True


def table() -> str:
    rows = [f"| | {' | '.join(f'`{name}`' for name in STRATEGIES)} |", f"|---{'|---' * len(STRATEGIES)}|"]
    for setting in SETTINGS:
        key, value = setting.split("=")
        cells = ["yes" if goes(strategy, setting) else "no" for strategy in STRATEGIES]
        rows.append(f"| `{key}: {value}` | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def test_the_table_is_what_the_code_accepts():
    """To write it anew: python -m tests.test_parallel_page"""
    assert PAGE.read_text().split("refused in one line before anything starts.\n\n")[1] == table()


def test_all_strategies_and_precisions_are_in_it():
    types = TrainerConfig.__annotations__
    for field, found in (("strategy", STRATEGIES), ("precision", [s.split("=")[1] for s in SETTINGS])):
        assert set(re.findall(r'"([\w-]+)"', types[field])) - {"auto"} <= set(found)
        assert field in field_docs(TrainerConfig)


def test_its_commands_are_understood():
    text = PAGE.read_text().replace("\\\n ", "")
    commands = [line.split("#")[0] for line in re.findall(r"(?:t2x|t2x_core\.cli\.main) (fit RECIPE[^\n`…]*)", text)]
    assert len(commands) == 6
    for command in commands:
        chosen = parse(command.split())
        load_assembly("quickstart", ["trainer.global_batch=64", *chosen.overrides])
    assert TORCHRUN.format(nodes=2, devices=8) in text


def test_what_it_says_may_change_on_a_resume_may():
    named = ("devices", "num_nodes", "strategy", "shards", "accumulation", "gradient_checkpointing", "compile")
    assert {f"trainer.{name}" for name in named} <= set(MAY_CHANGE)


if __name__ == "__main__":
    mark = "refused in one line before anything starts.\n\n"
    PAGE.write_text(PAGE.read_text().split(mark)[0] + mark + table())
