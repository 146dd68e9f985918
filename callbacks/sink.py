"""Sends numbers, pictures and text of callbacks to the loggers of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True)
class Sink:
    """The loggers of a run, for one kind of samples.

    Attributes:
        trainer: the Trainer.
        pl_module: the module that the Trainer runs.
        stage: ``val`` or ``test``, with which every tag then begins; ``""`` for samples of training.
    """

    trainer: Trainer
    pl_module: LightningModule
    stage: str

    def tag(self, name: str) -> str:
        """The tag with its stage, such as ``val/top_k/table``."""
        return f"{self.stage}/{name}" if self.stage else name

    @property
    def step(self) -> int:
        """Optimizer steps done so far."""
        return self.trainer.global_step

    def scalars(self, values: Mapping[str, Tensor | float]) -> None:
        """Log numbers with all loggers. The values must be the same on all processes.

        Args:
            values: number of each tag, without the stage.
        """
        named = {self.tag(name): float(value) for name, value in values.items()}
        if self.stage:
            self.pl_module.log_dict(
                named, on_step=False, on_epoch=True, batch_size=1, sync_dist=self.trainer.world_size > 1
            )
            return
        # The module's `log` would drop values at steps that are not multiples of log_every_n_steps.
        for logger in self.trainer.loggers:
            logger.log_metrics(named, step=self.step)

    @property
    def boards(self) -> list[SummaryWriter]:
        """TensorBoard writers for pictures, histograms and text; the list is empty except on the first process."""
        if not self.trainer.is_global_zero:
            return []
        return [logger.experiment for logger in self.trainer.loggers if isinstance(logger, TensorBoardLogger)]
