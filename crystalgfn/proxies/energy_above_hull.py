"""Energy above the convex hull: how far a crystal is from the cheapest mixture of known phases."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from crystalgfn.crystal.crystals import Crystals
from crystalgfn.gflownet.proxies.base import Prediction, Proxy
from crystalgfn.proxies.formation_energy import FormationEnergy
from crystalgfn.proxies.hull import load_hull
from crystalgfn.registry import PROXIES

SHIPPED_HULL = Path(__file__).parent / "hull" / "data" / "hull.pt"


@PROXIES.register
class EnergyAboveHull(Proxy):
    """Energy above the convex hull [eV/atom]: predicted formation energy minus the hull at that composition.

    A low formation energy alone favours a few chemistries, such as oxyfluorides of aluminium and magnesium. The hull is
    the energy that a mixture of known phases of the same composition has, so what is left tells how unstable a
    crystal is against decomposition: about 0 for a stable one.

    A negative value is a prediction below every known mixture: a discovery, or a hole of the network. It is returned
    as it is; a reward that grows without bound for low values looks for the holes, so give it an end (``enough``).

    Args:
        weights: weights of `FormationEnergy`: a file, ``taught``, or None for the usual shipped ones.
        hull: file that ``crystalgfn build-hull`` wrote; the shipped one if None.

    Raises:
        InputError: if a file cannot be used.

    Source: PBE(+U) formation energies of the Materials Project and WBM at 0 K, for the network and for the hull.
    """

    name = "energy_above_hull"
    unit = "eV/atom"
    direction = "minimize"
    valid_range = (-1.0, 7.0)
    has_uncertainty = True

    def __init__(self, weights: Path | str | None = None, hull: Path | str | None = None) -> None:
        super().__init__()
        self.formation_energy = FormationEnergy(weights)
        self.hull = load_hull(SHIPPED_HULL if hull is None else hull)

    @torch.no_grad()
    def forward(self, crystals: Crystals) -> Tensor:
        """Energy above the hull of each crystal.

        Args:
            crystals: a batch of n crystals.

        Returns:
            (n,) energy above the hull in eV/atom, in the precision of the formation energy.

        Raises:
            InputError: if a crystal has an element, or more elements, than the hull is made for.
        """
        return self.predict(crystals).value

    def refused(self, crystals: Crystals) -> list[str]:
        """Which crystals have elements, or more elements, than the hull is made for."""
        return self.hull.refused(crystals.counts)

    @torch.no_grad()
    def predict(self, crystals: Crystals) -> Prediction:
        """Energy above the hull and, as its uncertainty, that of the formation energy [eV/atom].

        The reference phases of the hull are taken as exact.
        """
        energy = self.formation_energy.predict(crystals)
        value = (energy.value - self.hull(crystals.counts)).to(energy.value.dtype)
        return Prediction(value, energy.uncertainty)
