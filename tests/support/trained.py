"""Samplers trained as a run trains them, without its output."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl

from crystalgfn.gflownet.data import Samples
from crystalgfn.gflownet.losses import Loss
from crystalgfn.gflownet.module import GFlowNet
from crystalgfn.gflownet.policies import MLP


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's messages."""
    logger = logging.getLogger("pytorch_lightning")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


def train(loss: Loss, steps: int, **settings: Any) -> GFlowNet:
    """A sampler, trained; settings are those of `GFlowNet`."""
    defaults = {"batch_size": 96, "lr": 2e-2, "lr_log_z": 0.5, "epsilon": 0.05}
    model = GFlowNet(policy=lambda sizes: MLP(sizes, (64, 64)), loss=loss, **(defaults | settings))
    with quiet():
        trainer = pl.Trainer(
            accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(model, Samples())
    return model
