"""The learning rate of a run that goes on: that of the recipe as it is now, not of the one it was saved with."""

from __future__ import annotations

import logging

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import LambdaLR

from t2x_core.module import T2XModule
from t2x_core.optim import build_optimizer

log = logging.getLogger("t2x")


class LearningRate(Callback):
    """Puts the optimizer's settings of the recipe in place of those in the checkpoint, and says how the rate changes.

    A checkpoint holds the rate of its next step under the old settings: 0 at the end of a finished run.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, T2XModule)
        if not trainer.global_step:
            return
        (optimizer,), (config,) = trainer.optimizers, trainer.lr_scheduler_configs
        schedule = config.scheduler
        assert isinstance(schedule, LambdaLR)
        before = optimizer.param_groups[0]["lr"]
        fresh = build_optimizer(pl_module.trainable(), pl_module.optimizer_config).param_groups
        for group, own in zip(optimizer.param_groups, fresh, strict=True):
            group.update({name: value for name, value in own.items() if name != "params"})
            group["initial_lr"] = own["lr"]
        schedule.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        for group, base, factor in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
            group["lr"] = base * factor(schedule.last_epoch)
        schedule._last_lr = [group["lr"] for group in optimizer.param_groups]
        now = optimizer.param_groups[0]["lr"]
        if now != before and trainer.global_step < trainer.max_steps:
            log.info(
                "learning rate of step %d: %.3g; with the settings before it would have been %.3g",
                *(trainer.global_step + 1, now, before),
            )
