"""Check that the global random generators are not used; no code of the package may draw from them."""

from __future__ import annotations

import random

import numpy as np
import torch


def global_generators() -> dict[str, str]:
    """State of the global random generators of torch, numpy and Python, as text, by name."""
    return {
        "torch": str(torch.get_rng_state().tolist()),
        "numpy": str(np.random.get_state(legacy=False)),  # noqa: NPY002 - this is the generator to watch
        "python": str(random.getstate()),
    }


def assert_untouched(before: dict[str, str], what: str) -> None:
    """Assert that no global random generator was used.

    Args:
        before: states from `global_generators`, taken before the tested code ran.
        what: name of the tested code, for the message.

    Raises:
        AssertionError: if a state has changed.
    """
    after = global_generators()
    touched = [name for name in before if before[name] != after[name]]
    assert not touched, f"{what} draws from the global generator of {', '.join(touched)}"
