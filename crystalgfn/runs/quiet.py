"""Hide messages of Lightning that do not concern users of this program. All other messages are shown."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

IGNORED_WARNINGS = (
    # The data loader only returns requests for samples (tickets), so workers would not make it faster.
    r"The '\w+' does not have many workers",
    # The proxy has to be in evaluation mode.
    r"Found \d+ module\(s\) in eval mode at the start of training",
    # Training runs until max_steps. The data have no end, so the length of an epoch has no meaning.
    r"The '\w+' has `IterableDataset` with `__len__` defined",
    # Some callbacks keep state in training only. Sampling does not need this state.
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
    # Lightning 2.6 uses an old name of torch.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # Lightning 2.6 calls a method that was renamed in jsonargparse 4.49.
    r"[\s\S]*JsonargparseDeprecationWarning",
    # Resuming within an epoch is exact here, because the data come from a generator whose state is in the checkpoint.
    r"You're resuming from a checkpoint that ended before the epoch ended",
    # Every process gets the same number of tickets, so no ticket is repeated.
    r"Using `DistributedSampler` with the dataloaders",
)
"""Regular expressions for warnings to ignore, each with the reason."""


_LOGGERS = ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero")


def quieten() -> None:
    """Ignore the warnings in `IGNORED_WARNINGS`, and Lightning's tips and reports of unused devices."""
    for pattern in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=pattern)
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_news)


@contextmanager
def warnings_only() -> Iterator[None]:
    """Hide the output of Lightning except warnings; for a command inside another one that shows progress itself."""
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
