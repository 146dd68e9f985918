"""Whether a cell has the volume that its atoms usually take."""

from __future__ import annotations

import torch
from torch import Tensor

from crystalgfn.crystal.crystals import Crystals
from crystalgfn.gflownet.proxies.base import Proxy
from crystalgfn.proxies.priors.tables import read_atomic_volumes
from crystalgfn.registry import PROXIES

_MIN_VOLUME = 1e-3
"""Volume [Å³] that a cell without one is taken to have, so that its value is finite and bad."""


@PROXIES.register
class VolumeMismatch(Proxy):
    """Absolute logarithm of the cell's volume over the sum of its atoms' usual volumes, |ln(V / sum n_i v_i)|.

    0.1 is a volume that is 10 % too large or too small.

    Source: volumes v_i [Å³] fitted on crystals of the Materials Project (`fit_atomic_volumes`).
    """

    name = "volume_mismatch"
    valid_range = (0.0, float("inf"))

    def __init__(self) -> None:
        super().__init__()
        self.atomic_volumes: Tensor
        self.register_buffer("atomic_volumes", read_atomic_volumes(), persistent=False)

    def forward(self, objects: Crystals) -> Tensor:
        """(n,) float64, 0 or more."""
        expected = objects.counts.to(torch.float64) @ self.atomic_volumes
        return (objects.volume.clamp_min(_MIN_VOLUME) / expected.clamp_min(_MIN_VOLUME)).log().abs()
