"""Data loaders for the Trainer: a GFlowNet makes its own data, so a batch is only a request for samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, IterableDataset

from crystalgfn.checks import at_least, positive
from crystalgfn.errors import InputError

TICKET_SIZE = 1000
"""Number of objects drawn from one random stream. It is fixed, so that samples depend on the seed only."""


@dataclass
class Ticket:
    """A request for ``n`` samples.

    Attributes:
        stream: name of the random stream from which the samples are drawn.
        n: number of samples that are returned.
        size: number of samples that are drawn, at least n.
    """

    stream: tuple[int | str, ...]
    n: int
    size: int


class Ticks(IterableDataset[int]):
    """Counts up without end: one number for each training step."""

    def __iter__(self) -> Iterator[int]:
        return count()


class Tickets(Dataset[Ticket]):
    """Tickets for ``n_samples`` samples, distributed over the processes in turn.

    Every process gets the same number of tickets, so that all processes end together and no ticket is repeated. The
    last tickets can therefore be for zero samples.

    Args:
        n_samples: total number of samples.
        stream: name of the family of random streams; each ticket has its own stream.
        processes: number of processes.
    """

    def __init__(self, n_samples: int, *stream: int | str, processes: int = 1) -> None:
        self._n_samples, self._stream, self._processes = n_samples, stream, processes

    def __len__(self) -> int:
        return math.ceil(self._n_samples / (TICKET_SIZE * self._processes)) * self._processes

    def __getitem__(self, index: int) -> Ticket:
        if not 0 <= index < len(self):
            raise IndexError(index)
        n = min(TICKET_SIZE, max(0, self._n_samples - index * TICKET_SIZE))
        return Ticket((*self._stream, index), n, TICKET_SIZE)


def refuse_restriction(restrict: Any) -> None:
    """Raise an `InputError` if there is a restriction, because a model is trained on its whole space."""
    if restrict is not None:
        raise InputError(
            "restrict: is not allowed in training; it is for predict, test and validate. To train on a smaller "
            "space, change model.env"
        )


class Samples(LightningDataModule):
    """How many objects are sampled, with which seed and restriction, and where they are written.

    Args:
        num_samples: number of objects that ``predict`` and ``test`` sample.
        num_val_samples: number of objects that each validation samples.
        seed: seed of the random streams for sampling. The same seed gives the same samples; a smaller number of samples
            gives the first ones of a larger number.
        out: table that ``predict`` writes.
        restrict: restriction of what is sampled: settings by name or, on the command line, a file that contains them;
            for crystals see docs/restriction.md. Not allowed in training. None for no restriction.
        finetune_steps: number of training steps in the restricted space before sampling; the checkpoint is not changed.
        finetune_lr: learning rate of these steps at the start.

    Raises:
        InputError: if a number is not allowed, or if ``finetune_steps`` is set without ``restrict``.
    """

    def __init__(
        self,
        num_samples: int = 10_000,
        num_val_samples: int = 1_000,
        seed: int = 0,
        out: Path = Path("samples.csv"),
        restrict: dict[str, Any] | None = None,
        finetune_steps: int = 0,
        finetune_lr: float = 1e-3,
    ) -> None:
        super().__init__()
        at_least("finetune_steps", finetune_steps, 0)
        positive("finetune_lr", finetune_lr)
        at_least("num_samples", num_samples, 1)
        at_least("num_val_samples", num_val_samples, 1)
        if finetune_steps and restrict is None:
            raise InputError(
                f"finetune_steps: {finetune_steps} is not allowed without a restriction; set data.restrict, or "
                "continue training with 'crystalgfn fit --ckpt_path'"
            )
        self._unrestricted: Any = None
        self.restrict, self.finetune_steps, self.finetune_lr = restrict, finetune_steps, finetune_lr
        self.num_samples, self.num_val_samples, self.seed, self.out = num_samples, num_val_samples, seed, Path(out)

    def setup(self, stage: str) -> None:
        """Restrict the model's environment, before anything is sampled or written.

        Raises:
            InputError: if there is a restriction in training, or if it does not fit the environment.
        """
        if self.restrict is None:
            return
        if stage == "fit":
            refuse_restriction(self.restrict)
        assert self.trainer is not None
        module = self.trainer.lightning_module
        self._unrestricted = module.env
        module.env = self._unrestricted.restricted(self.restrict)

    def teardown(self, stage: str) -> None:
        """Give the model its original environment back."""
        if self._unrestricted is not None and self.trainer is not None:
            self.trainer.lightning_module.env = self._unrestricted
            self._unrestricted = None

    def train_dataloader(self) -> DataLoader[int]:
        return DataLoader(Ticks(), batch_size=None)

    def val_dataloader(self) -> DataLoader[Ticket]:
        return self._tickets(self.num_val_samples, "validate")

    def test_dataloader(self) -> DataLoader[Ticket]:
        return self._tickets(self.num_samples, "test")

    def predict_dataloader(self) -> DataLoader[Ticket]:
        return self._tickets(self.num_samples, "predict")

    def _tickets(self, n_samples: int, purpose: str) -> DataLoader[Ticket]:
        processes = self.trainer.world_size if self.trainer is not None else 1
        return DataLoader(Tickets(n_samples, self.seed, purpose, processes=processes), batch_size=None)
