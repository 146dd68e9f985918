"""Silences what Lightning says that is no news to a user of this program; everything else still comes through."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

IGNORED_WARNINGS = (
    # The data loader hands out tickets; workers would only cost.
    r"The '\w+' does not have many workers",
    # The proxy is meant to be in evaluation mode.
    r"Found \d+ module\(s\) in eval mode at the start of training",
    # Training runs until max_steps; batches have no end, so an epoch has none.
    r"The '\w+' has `IterableDataset` with `__len__` defined",
    # Only training has callbacks that keep state; sampling does not need it.
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
    # Lightning 2.6 calls torch's old name.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # Lightning 2.6 calls a method of jsonargparse that 4.49 renamed.
    r"[\s\S]*JsonargparseDeprecationWarning",
    # Resuming inside an epoch is exact here: a step's data come from the generator in the checkpoint.
    r"You're resuming from a checkpoint that ended before the epoch ended",
    # Every process has as many tickets as the others, so none is repeated.
    r"Using `DistributedSampler` with the dataloaders",
)
"""Regular expressions, each with its reason."""


_LOGGERS = ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero")


def quieten() -> None:
    """Ignore the warnings above, and Lightning's advertising."""
    for pattern in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=pattern)
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_news)


@contextmanager
def warnings_only() -> Iterator[None]:
    """Run a command as a part of another one, which shows progress itself: without its lines, warnings excepted."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(("💡", "GPU available", "TPU available", "HPU available"))
