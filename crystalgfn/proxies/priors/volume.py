"""How far the volume of a cell is from the usual volume of its atoms."""

from __future__ import annotations

import torch
from torch import Tensor

from crystalgfn.crystal.crystals import Crystals
from crystalgfn.gflownet.proxies.base import Proxy
from crystalgfn.proxies.priors.tables import read_atomic_volumes
from crystalgfn.registry import PROXIES

_MIN_VOLUME = 1e-3
"""Volume [Å³] that is used for a cell without volume, so that its value is finite and large."""


@PROXIES.register
class VolumeMismatch(Proxy):
    """Deviation of the cell's volume V from the sum of the usual volumes of its atoms, |ln(V / sum n_i v_i)|.

    A value of 0.1 means that the volume is about 10 % too large or too small.

    Source: volumes v_i [Å³], fitted to crystals of the Materials Project (`fit_atomic_volumes`).
    """

    name = "volume_mismatch"
    valid_range = (0.0, float("inf"))

    def __init__(self) -> None:
        super().__init__()
        self.atomic_volumes: Tensor
        self.register_buffer("atomic_volumes", read_atomic_volumes(), persistent=False)

    def forward(self, objects: Crystals) -> Tensor:
        """(n,) float64 deviation, 0 or more."""
        expected = objects.counts.to(torch.float64) @ self.atomic_volumes
        return (objects.volume.clamp_min(_MIN_VOLUME) / expected.clamp_min(_MIN_VOLUME)).log().abs()
