"""Checkpoints: the last state of a run, always there."""

from __future__ import annotations

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from crystalgfn.errors import InputError


class Checkpoints(ModelCheckpoint):
    """Keeps ``checkpoints/last.ckpt`` up to date: every so many steps, and at the end whatever its step.

    A training step that fails, such as in a proxy, ends the run with a checkpoint of the steps before it.

    Args:
        every_n_steps: training steps between two checkpoints.

    Raises:
        InputError: if the interval is not positive.
    """

    def __init__(self, every_n_steps: int = 500) -> None:
        if every_n_steps < 1:
            raise InputError(f"every_n_steps: {every_n_steps} is not allowed; it must be at least 1")
        super().__init__(save_last=True, save_top_k=0, every_n_train_steps=every_n_steps)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run that ends between two intervals would otherwise lose its last steps.
        self._save_unless_saved(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # A step that failed has changed nothing: a proxy that raises must not cost the steps before it. With several
        # processes the others may be anywhere, and saving would wait for them.
        if isinstance(exception, Exception) and trainer.training and trainer.world_size == 1:
            self._save_unless_saved(trainer)

    def _save_unless_saved(self, trainer: Trainer) -> None:
        if self._last_global_step_saved != trainer.global_step and not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
