"""Keeps a checkpoint of a run up to date, and ends a run safely after a signal."""

from __future__ import annotations

import math
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import Optimizer

from crystalgfn.checks import at_least, listed
from crystalgfn.errors import InputError, Stopped
from crystalgfn.gflownet.checkpoint_files import BEST, CheckpointFiles, link

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Checkpoints(ModelCheckpoint):
    """Writes ``checkpoints/last.ckpt`` at regular intervals of training steps, and at the end of a run.

    A checkpoint holds the state between two steps. Logs, validation and callbacks of the earlier step are complete. A
    run that continues from the checkpoint gives the same results as a run without interruption.

    Ctrl-C or SIGTERM ends the run after the current step, with a checkpoint. A second signal ends it at once. If a
    training step fails, for example in a proxy, the run ends with a checkpoint of the steps before it.

    Args:
        every_n_steps: number of training steps between two checkpoints.
        best_of: a value that validations log, such as ``val/held_out/bits``. The checkpoint after the validation with
            the lowest value is kept as ``checkpoints/best.ckpt``. Samples of the run then come from it. None for no
            such checkpoint.

    Raises:
        InputError: if the interval is not positive; in a validation, if there is no such value.
    """

    def __init__(self, every_n_steps: int = 500, best_of: str | None = None) -> None:
        at_least("every_n_steps", every_n_steps, 1)
        super().__init__(save_last=True, save_top_k=0, every_n_train_steps=every_n_steps)
        self._every_n_steps = every_n_steps
        self._best_of = best_of
        self._lowest = math.inf
        self._best_is_due = False
        self._stop: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._is_between_steps = False
        self._is_saving = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        trainer.strategy.checkpoint_io = CheckpointFiles()

    # When to save

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        # Lightning notes a signal that arrives while the run is set up.
        self._stop = signal.SIGTERM if trainer.received_sigterm else None
        self._is_between_steps = False
        folder = Path(self.dirpath or ".")
        if trainer.ckpt_path is not None and Path(trainer.ckpt_path).parent.resolve() == folder.resolve():
            # The folder is the same, so the last checkpoint in it belongs to this run.
            self.last_model_path = self.format_checkpoint_name({}, self.CHECKPOINT_NAME_LAST)
        elif trainer.ckpt_path is not None and trainer.is_global_zero:
            # The best one before may stay the best one.
            before = Path(trainer.ckpt_path).with_name(BEST)
            if self._best_of is not None and before.is_file():
                folder.mkdir(parents=True, exist_ok=True)
                link(before, folder / BEST)
        self._listen()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Accumulated gradients are not part of a checkpoint.
        if batch_idx % trainer.accumulate_grad_batches:
            self._is_between_steps = False
            return
        self._is_between_steps = True
        stop = self._stop is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        is_due = trainer.global_step > 0 and trainer.global_step % self._every_n_steps == 0
        if stop or is_due or self._best_is_due:
            self._save_unless_saved(trainer)
        if stop:
            self._is_between_steps = False
            path = self.last_model_path if trainer.global_step else ""
            raise Stopped(self._stop or signal.SIGTERM, trainer.global_step, path)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._is_between_steps = False

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._is_between_steps = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Do nothing. The validation of this step comes later, so the start of the next step saves."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if self._best_of is None or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        value = trainer.callback_metrics.get(self._best_of)
        if value is None:
            logged = sorted(name for name in trainer.callback_metrics if name.startswith("val/"))
            raise InputError(f"best_of: no validation logs {self._best_of!r}; logged are: {listed(logged)}")
        if float(value) < self._lowest:
            self._lowest, self._best_is_due = float(value), True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen_no_more()
        # Otherwise a run that ends between two intervals would lose its last steps.
        self._save_unless_saved(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._listen_no_more()
        # After an error in a proxy the steps before it must not be lost. With several processes there is no checkpoint,
        # because saving would wait for the other processes.
        if isinstance(exception, Exception) and self._is_between_steps and trainer.world_size == 1:
            self._is_between_steps = False
            self._save_unless_saved(trainer)

    def _save_unless_saved(self, trainer: Trainer) -> None:
        if trainer.global_step and not self._should_skip_saving_checkpoint(trainer):
            # A run that continues from the checkpoint does not log these values again, so write them now.
            for logger in trainer.loggers:
                logger.save()
            self._is_saving = True
            try:
                self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
            finally:
                self._is_saving = False
        if self._best_is_due and self.last_model_path:
            self._best_is_due = False
            if trainer.is_global_zero:
                link(Path(self.last_model_path), Path(self.last_model_path).with_name(BEST))

    # What is saved

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not self._is_saving:
            return
        # Lightning counts batches that are ready, started, processed and completed. Between two steps all counts are
        # equal, but here Lightning has updated only some of them. When a run continues, Lightning adds one to
        # _batches_that_stepped.
        loop = checkpoint["loops"]["fit_loop"]
        for part in loop["epoch_loop.batch_progress"].values():
            if isinstance(part, dict):
                part.update(dict.fromkeys(("ready", "started", "processed"), part["completed"]))
        loop["epoch_loop.batch_progress"]["total"]["ready"] += 1
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] = trainer.global_step - 1

    def state_dict(self) -> dict[str, Any]:
        # A run that continues elsewhere has its own folder.
        return {"lowest": self._lowest} if self._best_of is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._lowest = state_dict.get("lowest", math.inf)

    # Signals

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            self._handlers[number] = signal.signal(number, self._on_signal)

    def _listen_no_more(self) -> None:
        while self._handlers:
            number, handler = self._handlers.popitem()
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + number)
        self._stop = signal.Signals(number)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._listen_no_more()
