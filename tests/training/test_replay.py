"""The batch of a step once more: what training saw, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image

from t2x_core.assembly import build_data, build_module, load_assembly
from t2x_core.cli.main import main
from t2x_core.recipe import to_plain
from t2x_core.training import fit, run_folder
from t2x_core.training.replay import find_report, replay
from tests.conftest import IMAGES, TINY_IMAGES
from tests.data.image_set import write_good
from tests.training.spoilt import nan_in, report, train


class Trace(Callback):
    """Step (from 0) and attempt → what training saw of its samples, by slot."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, int], dict[int, dict[str, Any]]] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = self.seen.setdefault((batch.keys[0].step, batch.keys[0].attempt), {})
        for i, key in enumerate(batch.keys):
            step[key.slot] = {
                "key": key,
                "pixels": batch.pixels[i].clone(),
                "caption": batch.captions[i],
                "t": outputs["t"][i],
            }


def same(trace: Trace, run: Path, step: int, attempt: int) -> bool:
    """Whether a replay of step `step` (from 1) is what training saw."""
    replayed, seen = replay(run, step, attempt), trace.seen[step - 1, attempt]
    return (
        list(replayed.batch.keys) == [seen[slot]["key"] for slot in sorted(seen)]
        and list(replayed.batch.captions) == [seen[slot]["caption"] for slot in sorted(seen)]
        and torch.equal(replayed.batch.pixels, torch.stack([seen[slot]["pixels"] for slot in sorted(seen)]))
        and torch.equal(replayed.draws.t, torch.stack([seen[slot]["t"] for slot in sorted(seen)]))
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trace]:
    """A run with two micro-batches a step that went back from step 4 to step 2."""
    torch.set_num_threads(1)
    run, trace = tmp_path_factory.mktemp("replay") / "run", Trace()
    settings = ["guard.max_skips=2", "logging.checkpoint_every=2", "trainer.max_steps=5", "trainer.accumulation=2"]
    train(run, nan_in(range(2, 4)), *settings, extra=[trace])
    return run, trace


def test_it_is_what_training_saw(trained):
    run, trace = trained
    assert sorted(trace.seen) == [(0, 0), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (4, 1)]
    for step, attempt in trace.seen:
        assert same(trace, run, step + 1, attempt)
    assert not torch.equal(replay(run, 3, 0).draws.t, replay(run, 3, 1).draws.t)


def test_images_are_cropped_as_in_training(tmp_path):
    write_good(tmp_path / "images", 24)
    settings = [
        *TINY_IMAGES,
        f"{IMAGES}.folder={tmp_path / 'images'}",
        f"{IMAGES}.flip=0.5",
        "trainer.workers=1",
    ]
    assembly = load_assembly("text_to_image/folder", settings)
    (run := tmp_path / "run").mkdir()
    run_folder.write_run(run, to_plain(assembly.recipe))
    module, trace = build_module(assembly), Trace()
    fit(assembly, module, build_data(assembly, module), run, extra=[trace])
    assert same(trace, run, 1, 0)
    assert same(trace, run, 2, 0)


def test_the_command_takes_the_step_of_the_report_as_it_is(trained, tmp_path, capsys):
    run, _ = trained
    line = report(run)[-1]
    assert main(["replay", str(run), str(line["step"]), "--out", str(tmp_path / "x.png")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "step 4, attempt 0: 4 samples of text-to-image"
    assert out[2].startswith("skipped: nan;")
    assert out[3].split() == ["slot", "id", "t", "dropped", "loss", "caption"]
    for row, sample in zip(out[4:8], line["samples"], strict=True):
        slot, id, t, dropped, loss, *caption = row.split()
        assert (int(slot), int(id)) == (sample["slot"], sample["id"])
        assert t == f"{sample['t']:.4f}"
        assert dropped in ("yes", "no")
        assert loss == f"{float(sample['loss']):.4f}"
        assert " ".join(caption) == sample["caption"]
    width, height = Image.open(tmp_path / "x.png").size
    assert width > 4 * 128  # two columns clean, two noised
    assert height > 2 * 128

    assert main(["replay", str(run), "4", "--attempt", "1", "--num", "1", "--out", str(tmp_path / "y.png")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "step 4, attempt 1: 4 samples of text-to-image"
    assert out[2].split() == ["slot", "id", "t", "dropped", "caption"]  # this attempt was not skipped
    assert len(out) == 2 + 5 + 1
    assert Image.open(tmp_path / "y.png").width < width


def test_what_is_shown_is_noised_as_in_training(trained):
    run, _ = trained
    replayed = replay(run, 2, images=3)
    assert len(replayed.noised) == len(replayed.draws.noise) == 3
    t = replayed.draws.t[:3].view(-1, 1, 1, 1, 1)
    # The identity codec has the pixels themselves as latents.
    assert torch.equal(replayed.noised, (1 - t) * replayed.batch.pixels[:3] + t * replayed.draws.noise)


def test_dropped_conditions_are_those_of_training(trained):
    """With every condition dropped or none, the table says so."""
    run, _ = trained
    assembly = load_assembly(str(run / run_folder.RECIPE_FILE), [])
    module, replayed = build_module(assembly), replay(run, 1)
    draws = module.draw(replayed.batch.keys, module.encode(replayed.batch).latents)
    assert torch.equal(draws.dropped, replayed.draws.dropped)
    column = [row.split()[3] for row in replayed.table().splitlines()[1:]]
    assert column == ["yes" if dropped else "no" for dropped in draws.dropped.tolist()]


def test_of_several_lines_on_a_step_the_last_counts(tmp_path):
    file = tmp_path / "nan_report.jsonl"
    assert find_report(file, 3, None) is None
    lines = [{"step": step, "attempt": attempt, "reason": "nan", "samples": []} for step, attempt in ((3, 0), (3, 1))]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "att')
    assert find_report(file, 3, None)["attempt"] == 1
    assert find_report(file, 3, 0)["attempt"] == 0
    assert find_report(file, 4, None) is None
