"""Numbers of atoms and elements, for soft preferences in addition to the hard bounds of the environment."""

from __future__ import annotations

import torch
from torch import Tensor

from crystalgfn.crystal.crystals import Crystals
from crystalgfn.gflownet.proxies.base import Proxy
from crystalgfn.registry import PROXIES


@PROXIES.register
class AtomCount(Proxy):
    """Number of atoms in the conventional cell."""

    name = "n_atoms"
    valid_range = (0.0, float("inf"))

    def __init__(self) -> None:
        super().__init__()

    def forward(self, objects: Crystals) -> Tensor:
        """(n,) float64 number of atoms."""
        return objects.n_atoms.to(torch.float64)


@PROXIES.register
class ElementCount(Proxy):
    """Number of different elements."""

    name = "n_elements"
    valid_range = (0.0, 94.0)

    def __init__(self) -> None:
        super().__init__()

    def forward(self, objects: Crystals) -> Tensor:
        """(n,) float64 number of elements."""
        return (objects.counts > 0).sum(1).to(torch.float64)
