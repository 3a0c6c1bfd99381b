"""`t2x bench samplers`: each variant is sampled as it says, and scored by the task's metric."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from t2x_core.assembly import build_data
from t2x_core.bench.samplers import bench_samplers, combinations
from t2x_core.cli.main import main
from t2x_core.errors import UserError
from t2x_core.generation import T2XPipeline
from t2x_core.interfaces import MeanScore
from t2x_core.sampling import sample
from t2x_core.types import Bucket
from tests.cli.mistakes import VALID


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "mine.yaml").write_text(VALID)
    assert main(["fit", str(folder / "mine.yaml"), "--folder", str(folder / "run")]) == 0
    return folder / "run"


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp-2m", "unipc"])
@pytest.mark.parametrize("count", [5, 8])
def test_evaluations_are_those_of_the_network(name: str, count: int, run: Path) -> None:
    pipeline = T2XPipeline.from_pretrained(run)
    calls: list[int] = []
    pipeline.module.backbone.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    axes = {"name": [name], "evaluations": [str(count)], "guidance": ["1"]}
    (found,) = bench_samplers(pipeline, None, axes, seeds=1, samples=2)
    assert len(calls) == found.evaluations
    assert count - found.evaluations in (0, 1)  # Heun makes an odd number


def test_scores_are_those_of_the_samples(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a plain loop: the same noise for each variant, other noise for each seed."""
    pipeline = T2XPipeline.from_pretrained(run)
    task = pipeline.assembly.task(None)
    monkeypatch.setattr(type(task), "metrics", lambda self: MeanScore(lambda x, _: {"mean": x.mean((1, 2, 3, 4))}))
    axes = {"guidance": ["1", "3"], "steps": ["2"]}
    found = bench_samplers(pipeline, None, axes, seeds=2, samples=3)
    data = build_data(pipeline.assembly, pipeline.module)
    data.check()
    conditions = data.val_conditions(task.name, 3)
    settings = [settings for _, settings in combinations(pipeline.assembly, axes)]
    assert [one.guidance for one in settings] == [1, 3]
    for variant, chosen in zip(found, settings, strict=True):
        for seed, mean in enumerate(variant.scores["mean"]):
            noise = [3 * seed + i for i in range(3)]
            pixels = sample(pipeline.module, conditions, noise, Bucket(1, 16, 16), chosen, 3)
            assert mean == pytest.approx(pixels.mean().item(), abs=1e-6)


def test_from_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--try", "name", "euler", "heun", "--try", "evaluations", "3", "--samples", "2", "--seeds", "1"]
    threads = torch.get_num_threads()
    try:
        assert main(["bench", "samplers", str(run), *asked, "--json", str(tmp_path / "x.json")]) == 0
    finally:
        torch.set_num_threads(threads)
    rows = [line.split(" | ")[:3] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows == [["| name", "evaluations", "passes"], ["| euler", "3", "3"], ["| heun", "3", "3"]]
    written = json.loads((tmp_path / "x.json").read_text())["variants"]
    assert [one["settings"]["name"] for one in written] == ["euler", "heun"]
    assert all(0 <= one["scores"]["all"][0] <= 1 for one in written)


@pytest.mark.parametrize(
    ("tries", "said"),
    [
        (["name", "eular"], "diffusion.sampler.name"),
        (["stepps", "3"], "stepps"),
        (["guidance", "-1"], "diffusion.sampler.guidance"),
        (["evaluations", "none"], "diffusion.sampler.steps"),
    ],
)
def test_a_wrong_axis_is_found_before_anything_is_sampled(tries: list[str], said: str, run: Path) -> None:
    pipeline = T2XPipeline.from_pretrained(run)
    with pytest.raises(UserError, match=said):
        combinations(pipeline.assembly, {tries[0]: tries[1:]})
