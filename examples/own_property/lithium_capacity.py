"""A property of one's own: how much charge the lithium of a crystal can carry."""

import torch

from crystalgfn.crystal.crystallography import atomic_numbers, element_symbols
from crystalgfn.gflownet.proxies import Proxy


class LithiumCapacity(Proxy):
    """Gravimetric capacity [mAh/g] if all lithium leaves the crystal: F n(Li) / (3.6 M)."""

    name = "lithium_capacity"
    unit = "mAh/g"
    direction = "maximize"

    def __init__(self):
        super().__init__()
        from pymatgen.core import Element

        masses = [float(Element(symbol).atomic_mass) for symbol in element_symbols()]
        self.register_buffer("masses", torch.tensor(masses, dtype=torch.float64), persistent=False)

    def forward(self, crystals):
        counts = crystals.counts.double()
        lithium = counts[:, atomic_numbers()["Li"] - 1]
        return 96485.33 / 3.6 * lithium / (counts @ self.masses)
