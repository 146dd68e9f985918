"""Options of the commands that build crystals in parallel, and what these commands say if they are stopped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser


def add_workers(parser: ArgumentParser) -> None:
    """Add the options that say where crystals are built: ``jobs``, ``backend``, ``scheduler`` and ``timeout``."""
    parser.add_argument("--jobs", type=int, default=1, help="crystals to build at the same time (default 1)")
    parser.add_argument(
        "--backend", default="loky", help="loky for this machine, dask or ray for a cluster (default loky)"
    )
    parser.add_argument("--scheduler", help="address of a Dask or Ray cluster (default: start a local one)")
    parser.add_argument(
        "--timeout", type=float, default=600.0, help="time limit for each crystal in seconds (default 600)"
    )


@contextmanager
def told_if_stopped(kept: Callable[[], str]) -> Iterator[None]:
    """Context that prints what is kept if Ctrl-C or SIGTERM ends its block.

    Args:
        kept: called after the signal; returns a message: what is kept, and which command continues the run.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        print(kept(), file=sys.stderr)
        raise
