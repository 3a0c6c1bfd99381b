"""What TensorBoard shows besides lines: charts put together, hyper-parameters, texts, images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from t2x_core.recipe import Recipe, dump_yaml, flat, to_plain
from t2x_core.rendering import encode
from t2x_core.types import RenderedSamples

Layout = dict[str, dict[str, list[Any]]]


def writers(trainer: Trainer) -> list[Any]:
    """The event writers of a Trainer; none on other ranks than the first."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def layout(tasks: Sequence[str]) -> Layout:
    """The charts of the tab "Custom Scalars": category → title → lines, as regular expressions of their tags."""

    def chart(*tags: str) -> list[Any]:
        return ["Multiline", list(tags)]

    several = tasks if len(tasks) > 1 else ()
    return {
        "Loss": {
            "training and validation": chart("loss/total$", "val/loss$", "val_raw/loss$"),
            **{
                f"training and validation: {task}": chart(f"loss/{task}$", f"val/loss/{task}$", f"val_raw/loss/{task}$")
                for task in several
            },
            **{f"training loss by t: {task}": chart(f"loss_by_t/{task}/") for task in tasks},
            **{f"validation loss by t: {task}": chart(f"val/loss_by_t/{task}/") for task in tasks},
        },
        "Scores": {task: chart(f"score/{task}/") for task in tasks},
        "Optimizer": {
            "gradient norm": chart("optimizer/gradient_norm$"),
            "gradient norm by part": chart("optimizer/gradient_norm/"),
            "learning rate": chart("optimizer/learning_rate"),
        },
        "Speed": {
            "samples a second": chart("speed/samples_per_second"),
            "seconds of a step, by part": chart("speed/step/"),
            "MFU": chart("speed/mfu"),
            "share of the time: data, evaluation": chart("speed/data_wait", "speed/evaluation"),
            "memory, GiB": chart("memory/"),
            "epoch": chart("progress/epoch/"),
        },
    }


def hyperparameters(recipe: Recipe) -> dict[str, bool | float | str]:
    """The recipe without `logging`, one value a key; what is no number is text."""
    plain = {key: value for key, value in to_plain(recipe).items() if key != "logging"}
    return {key: value if isinstance(value, bool | int | float) else _text(value) for key, value in flat(plain).items()}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "null" if value is None else str(value)


def write_hyperparameters(writer: Any, values: Mapping[str, bool | float | str], run: str) -> None:
    """One row in the tab "HParams". It belongs to this run's own events, so its figures are the run's last ones."""
    from tensorboard.plugins.hparams import summary_v2

    writer._get_file_writer().add_summary(summary_v2.hparams_pb(dict(values), trial_id=run))


def code_block(plain: Any) -> str:
    """Plain values as YAML, in the Markdown that the tab "Text" understands."""
    return f"```yaml\n{dump_yaml(plain)}```"


def write_image(writer: Any, tag: str, rendered: RenderedSamples, step: int) -> None:
    """A still image, or an animation (`SummaryWriter.add_video` would need moviepy)."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    height, width = rendered.frames.shape[1:3]
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encode(rendered))
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
