"""The global random generators, which nothing in the package may draw from."""

from __future__ import annotations

import random

import numpy as np
import torch


def global_generators() -> dict[str, str]:
    """State of the global generator of torch, numpy and Python, as text."""
    return {
        "torch": str(torch.get_rng_state().tolist()),
        "numpy": str(np.random.get_state(legacy=False)),  # noqa: NPY002 - this is the generator to watch
        "python": str(random.getstate()),
    }


def assert_untouched(before: dict[str, str], what: str) -> None:
    """Assert that no global generator was drawn from since `global_generators` gave ``before``."""
    after = global_generators()
    touched = [name for name in before if before[name] != after[name]]
    assert not touched, f"{what} draws from the global generator of {', '.join(touched)}"
