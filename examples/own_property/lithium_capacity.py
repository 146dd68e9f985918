"""A property of your own: how much charge the lithium of a crystal can carry."""

import torch

from crystalgfn import Proxy
from crystalgfn.crystal.crystallography import atomic_numbers, element_symbols


class LithiumCapacity(Proxy):
    """Gravimetric capacity [mAh/g] if all lithium leaves the crystal: F n(Li) / (3.6 M)."""

    name = "lithium_capacity"  # the column of tables and the tag in TensorBoard
    unit = "mAh/g"
    direction = "maximize"

    def __init__(self):
        super().__init__()
        from pymatgen.core import Element

        masses = [float(Element(symbol).atomic_mass) for symbol in element_symbols()]
        self.register_buffer("masses", torch.tensor(masses, dtype=torch.float64), persistent=False)

    def forward(self, crystals):  # counts (n, 94), space_group (n,), lattice (n, 6) -> (n,)
        counts = crystals.counts.double()
        lithium = counts[:, atomic_numbers()["Li"] - 1]
        return 96485.33 / 3.6 * lithium / (counts @ self.masses)
