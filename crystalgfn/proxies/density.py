"""Mass density of crystals, calculated exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from crystalgfn.crystal.crystallography import element_symbols
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.gflownet.proxies.base import Proxy
from crystalgfn.registry import PROXIES

GRAMS_PER_CM3 = 1.66053906660
"""1 u/Å³ in g/cm³ (CODATA 2018)."""


@PROXIES.register
class Density(Proxy):
    """Mass density of the cell [g/cm³], calculated exactly.

    Source: mass over volume; masses from pymatgen's ``Element.atomic_mass``.
    """

    name = "density"
    unit = "g/cm³"
    direction = "maximize"
    valid_range = (0.0, float("inf"))

    def __init__(self) -> None:
        super().__init__()
        from pymatgen.core import Element

        masses = [float(Element(symbol).atomic_mass) for symbol in element_symbols()]
        self.masses: Tensor
        self.register_buffer("masses", torch.tensor(masses, dtype=torch.float64), persistent=False)

    def forward(self, objects: Crystals) -> Tensor:
        """Density of each crystal.

        Args:
            objects: a batch of n crystals; counts refer to the conventional cell.

        Returns:
            (n,) float64 mass density in g/cm³.

        Raises:
            ValueError: if a cell has no volume.
        """
        volume = objects.volume
        if (volume <= 0).any():
            raise ValueError(f"{objects.formulas()[int((volume <= 0).nonzero()[0])]}: the cell has no volume")
        return GRAMS_PER_CM3 * (objects.counts.to(torch.float64) @ self.masses) / volume
