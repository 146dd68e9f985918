"""Keep libraries from printing what does not point to a problem."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Hide output and warnings of potentials, pymatgen and torch that do not point to a problem.

    CHGNet prints its size and device whenever it is loaded. torch warns about its volume scalars, SevenNet about
    missing accelerators, and pymatgen about rounded coordinates in CIF files.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        # CHGNet imports matplotlib, which reports its search for fonts.
        logging.getLogger("matplotlib").setLevel(logging.WARNING)
        yield
