"""Where callbacks send numbers, pictures and text."""

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
        pl_module: the module it runs.
        stage: ``""`` for samples of training, else ``val`` or ``test``, which then begins every tag.
    """

    trainer: Trainer
    pl_module: LightningModule
    stage: str

    def tag(self, name: str) -> str:
        """The full tag."""
        return f"{self.stage}/{name}" if self.stage else name

    @property
    def step(self) -> int:
        """Optimizer steps done so far."""
        return self.trainer.global_step

    def scalars(self, values: Mapping[str, Tensor | float]) -> None:
        """Log numbers, with any logger or none; values must be the same on all processes."""
        named = {self.tag(name): float(value) for name, value in values.items()}
        if self.stage:
            self.pl_module.log_dict(
                named, on_step=False, on_epoch=True, batch_size=1, sync_dist=self.trainer.world_size > 1
            )
            return
        # The module's own `log` would drop values between the steps of the trainer's log_every_n_steps.
        for logger in self.trainer.loggers:
            logger.log_metrics(named, step=self.step)

    @property
    def boards(self) -> list[SummaryWriter]:
        """TensorBoard writers, for pictures, histograms and text; none on other processes than the first."""
        if not self.trainer.is_global_zero:
            return []
        return [logger.experiment for logger in self.trainer.loggers if isinstance(logger, TensorBoardLogger)]
