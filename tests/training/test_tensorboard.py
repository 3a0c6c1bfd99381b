"""What a run shows in TensorBoard besides losses, read back from its event files."""

from __future__ import annotations

import copy
import io
import math
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter

from t2x_core.assembly import Assembly, build_data, build_module, load_assembly
from t2x_core.checkpoint import checkpoint_of
from t2x_core.rendering import caption_grid
from t2x_core.training import fit, run_folder, tensorboard
from t2x_core.training.callbacks import Metrics
from t2x_core.training.eval_timer import EvalTimer
from t2x_core.training.fit import build_trainer
from t2x_core.training.loss_by_t import BINS, figures
from t2x_core.training.steps import Steps
from t2x_core.types import SampleKey
from t2x_plugins.text_to_image.data import ShapesData, ShapesSource
from tests.conftest import TINY

TASK = "text-to-image"
SETTINGS = (*TINY, "trainer.max_steps=4", "trainer.global_batch=16", "logging.log_every=2")


def train(folder: Path, *settings: str, resume: bool = False, extra: Sequence[Callback] = ()) -> Assembly:
    assembly = load_assembly("quickstart", [*SETTINGS, *settings])
    module = build_module(assembly)
    (folder / run_folder.SAMPLES).mkdir(exist_ok=True, parents=True)
    fit(assembly, module, build_data(assembly, module), folder, resume=resume, extra=extra)
    return assembly


def read(folder: Path) -> EventAccumulator:
    everything = {"images": 0, "tensors": 0, "scalars": 0}
    return EventAccumulator(str(folder / run_folder.TENSORBOARD), everything).Reload()


def values(events: EventAccumulator, tag: str) -> dict[int, float]:
    return {point.step: point.value for point in events.Scalars(tag)}


def texts(events: EventAccumulator, tag: str) -> dict[int, str]:
    points = events.Tensors(f"{tag}/text_summary")
    assert len({point.step for point in points}) == len(points)
    return {point.step: point.tensor_proto.string_val[0].decode() for point in points}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Assembly]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "mine"
    return folder, train(folder)


@pytest.fixture(scope="module")
def events(run: tuple[Path, Assembly]) -> EventAccumulator:
    return read(run[0])


def test_the_squares_of_the_parts_add_up_to_the_gradient_norm(events):
    parts = [tag for tag in events.Tags()["scalars"] if tag.startswith("optimizer/gradient_norm/")]
    for part in (
        "backbone.mlp",
        "backbone.attention",
        "backbone.text_attention",
        "text_encoders.bytes",
        f"adapters.{TASK}",
    ):
        assert f"optimizer/gradient_norm/{part}" in parts
    whole = values(events, "optimizer/gradient_norm")
    for step in (2, 4):
        by_part = [values(events, part)[step] for part in parts]
        assert math.sqrt(sum(norm**2 for norm in by_part)) == pytest.approx(whole[step], rel=0.05)
    assert whole[4] > 0


def test_speed_and_memory(events):
    for step in (2, 4):
        steps = values(events, "speed/steps_per_second")[step]
        assert values(events, "speed/samples_per_second")[step] == pytest.approx(16 * steps, rel=1e-4)
        tokens = (16 // 4) ** 2  # of an image of 16×16 pixels in patches of 4
        assert values(events, "speed/tokens_per_second")[step] == pytest.approx(16 * tokens * steps, rel=1e-4)
        assert 0 < values(events, "speed/data_wait")[step] < 1
    assert 0.1 < values(events, "memory/process")[4] < 100


def test_the_epoch_is_how_often_each_sample_was_seen(tmp_path):
    train(tmp_path, f"tasks.{TASK}.data.shapes.count=32")
    assert values(read(tmp_path), f"progress/epoch/{TASK}") == {2: 1.0, 4: 2.0}


def test_a_slow_loader_shows(tmp_path, monkeypatch):
    fast = ShapesSource.__getitem__

    def slow(self: ShapesSource, key: SampleKey) -> Any:
        if key.step >= 2:  # of the run: not of the validation set, and not of the first two steps
            time.sleep(0.02)
        return fast(self, key)

    monkeypatch.setattr(ShapesSource, "__getitem__", slow)
    train(tmp_path)
    events = read(tmp_path)
    share, speed = values(events, "speed/data_wait"), values(events, "speed/steps_per_second")
    waited = {step: share[step] * 2 / speed[step] for step in (2, 4)}  # seconds, in two steps
    slept = 2 * 16 * 0.02
    assert waited[4] - waited[2] == pytest.approx(slept, rel=0.3)
    assert 0.2 < share[4] < 1


def test_several_tasks_are_told_apart(tmp_path):
    assembly = load_assembly("quickstart", [*SETTINGS, "logging.log_every=4", f"tasks.{TASK}.data.shapes.count=16"])
    module = build_module(assembly)
    module.adapters["other"], module.losses["other"] = copy.deepcopy(module.adapters[TASK]), module.losses[TASK]
    module.tasks["other"] = module.tasks[TASK]
    data = build_data(assembly, module)
    mine = data.modules[TASK]
    assert isinstance(mine, ShapesData)
    data.modules["other"], data.weights["other"] = ShapesData(mine.config, mine.context), 1.0
    metrics = Metrics(4, EvalTimer())
    callbacks = [metrics, Steps()]
    trainer = build_trainer(assembly.recipe, tmp_path, callbacks, metrics.clock, first_step=0)
    trainer.fit(module, datamodule=data)

    events = read(tmp_path)
    steps = {task: values(events, f"progress/epoch/{task}")[4] for task in (TASK, "other")}  # 16 samples a step
    assert sum(steps.values()) == 4
    assert min(steps.values()) > 0
    mean = sum(values(events, f"loss/{task}")[4] * count for task, count in steps.items()) / 4
    assert mean == pytest.approx(values(events, "loss/total")[4])
    for task in steps:
        assert any(tag.startswith(f"loss_by_t/{task}/") for tag in events.Tags()["scalars"])
        assert values(events, f"optimizer/gradient_norm/adapters.{task}")[4] > 0


def test_the_heat_map_is_drawn_after_each_validation(events):
    images = events.Images(f"loss_by_t/{TASK}")
    assert [image.step for image in images] == [2, 4]
    with Image.open(io.BytesIO(images[-1].encoded_image_string)) as image:
        assert (image.width, image.height) == (images[-1].width, images[-1].height)
        assert image.width > image.height > 10 * 30


def test_recipe_and_system_are_there_to_read(events, run):
    (recipe,) = texts(events, "recipe").values()
    assert recipe.startswith("```yaml\n")
    assert "global_batch: 16" in recipe
    (system,) = texts(events, "system").values()
    assert f"torch: {torch.__version__.split('+')[0]}" in system


def test_hyperparameters_belong_to_the_run_itself(events, run):
    folder, assembly = run
    assert not [path for path in (folder / run_folder.TENSORBOARD).iterdir() if path.is_dir()]
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = HParamsPluginData.FromString(content).session_start_info
    assert start.group_name == folder.name
    assert start.hparams["optimizer.lr"].number_value == assembly.recipe.optimizer.lr
    assert start.hparams["backbone.qk_norm"].bool_value is True
    assert start.hparams["backbone.attention"].string_value == "fused"
    assert start.hparams["backbone.preset"].string_value == "null"
    assert start.hparams[f"tasks.{TASK}.data.shapes.backgrounds"].string_value == "black"
    assert not [key for key in start.hparams if key.startswith("logging")]


def test_results_are_what_was_measured_last(events):
    assert values(events, "final/best_val_loss") == {4: min(values(events, "val/loss").values())}
    assert values(events, "final/loss") == {4: values(events, "loss/total")[4]}
    assert values(events, f"final/score/{TASK}/all") == {4: values(events, f"score/{TASK}/all")[4]}


def test_every_chart_of_the_layout_has_lines(events):
    (point,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(point.tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    tags = events.Tags()["scalars"]
    for title, expressions in charts.items():
        assert all(any(re.match(expression, tag) for tag in tags) for expression in expressions), title
    assert len([t for t in tags if re.match(charts["gradient norm"][0], t)]) == 1


def test_with_several_tasks_each_has_its_losses_in_a_chart_of_its_own():
    by_task = {task: [[1.0] * BINS, [1.0] * BINS] for task in (TASK, "other")}
    tags = [
        *figures(by_task, "loss/total"),
        *(tag for prefix in ("val/", "val_raw/") for tag in figures(by_task, "loss", prefix)),
    ]
    charts = {title: lines for title, (_, lines) in tensorboard.layout([TASK, "other"])["Loss"].items()}
    shown = {title: [t for t in tags if any(re.match(line, t) for line in lines)] for title, lines in charts.items()}
    assert shown["training and validation"] == ["loss/total", "val/loss", "val_raw/loss"]
    assert shown["training and validation: other"] == ["loss/other", "val/loss/other", "val_raw/loss/other"]
    assert all(shown.values())


def test_the_page_has_a_row_for_each_chart():
    page = (Path(__file__).parents[2] / "docs/tensorboard.md").read_text()
    rows = re.findall(r"^\| ([^|`]+?) \|", page, re.MULTILINE)
    charts = tensorboard.layout([TASK])
    assert {title.removesuffix(f": {TASK}") for category in charts.values() for title in category} - {TASK} <= {*rows}


def test_an_animation_is_shown_moving(tmp_path):
    moving = torch.linspace(-1, 1, 3).view(1, 1, 3, 1, 1).expand(1, 3, 3, 16, 16)
    with SummaryWriter(tmp_path) as writer:
        tensorboard.write_image(writer, "moving", caption_grid(moving, ["fading in"]), 7)
    (shown,) = EventAccumulator(str(tmp_path)).Reload().Images("moving")
    with Image.open(io.BytesIO(shown.encoded_image_string)) as image:
        assert image.n_frames == 3
    assert shown.step == 7


def everything(events: EventAccumulator) -> dict[str, list[tuple[int, Any]]]:
    """Tag → its points, but for what depends on the clock."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for tag in events.Tags()["scalars"]:
        if not tag.startswith(("speed/", "memory/")):
            found[tag] = [(point.step, point.value) for point in events.Scalars(tag)]
    for tag in events.Tags()["images"]:
        found[tag] = [(point.step, point.encoded_image_string) for point in events.Images(tag)]
    for tag in events.Tags()["tensors"]:
        found[tag] = [(point.step, point.tensor_proto.SerializeToString()) for point in events.Tensors(tag)]
    return found


class KeepCheckpoint(Callback):
    """Copies the checkpoint of step 4 aside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 5:
            shutil.copytree(checkpoint_of(self.folder, 4), self.folder / "kept")


def test_a_resumed_run_shows_what_an_uninterrupted_one_does(tmp_path):
    """Gone on from step 4, after all 8 steps had been written once."""
    settings = ("trainer.max_steps=8", "logging.log_every=1", "logging.checkpoint_every=4", "logging.sample_every=3")
    run = tmp_path / "run"
    train(run, *settings, extra=[KeepCheckpoint(run)])
    before = everything(read(run))
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    (run / "kept").rename(checkpoint_of(run, 4))
    train(run, *settings, resume=True)
    assert len(list((run / run_folder.TENSORBOARD).glob("events*"))) == 2
    assert everything(read(run)) == before
    assert [step for step, _ in before[f"loss_by_t/{TASK}"]] == [2, 4, 6, 8]


def test_another_recipe_on_resume_is_shown_from_where_it_holds(tmp_path):
    run = tmp_path / "run"
    train(run)
    train(run, "trainer.max_steps=6", resume=True)
    recipes = texts(read(run), "recipe")
    assert list(recipes) == [1, 5]
    assert "max_steps: 6" in recipes[5]
    assert list(texts(read(run), "system")) == [1]
