"""Energy above the convex hull: the energy of a crystal relative to the lowest mixture of known phases."""

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
    """Energy above the convex hull [eV/atom]: predicted formation energy minus the hull energy.

    A low formation energy alone favours a few chemistries, such as oxyfluorides of aluminium and magnesium. The hull
    energy is the lowest energy of any mixture of known phases with the same composition. The difference shows how
    unstable a crystal is against decomposition: it is about 0 for a stable crystal.

    A negative value means that the prediction is below every known mixture: the crystal is a discovery, or the network
    is wrong. Negative values are returned unchanged. A reward that grows without bound for low values favours wrong
    predictions; limit it with ``enough``.

    Args:
        weights: weights of `FormationEnergy`: a file, ``taught``, or None for the default shipped weights.
        hull: file that ``crystalgfn build-hull`` wrote; None for the shipped hull.

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
            InputError: if a crystal has an element that is not in the hull, or more elements than the hull allows.
        """
        return self.predict(crystals).value

    def refused(self, crystals: Crystals) -> list[str]:
        """Why a crystal has no energy above the hull.

        Args:
            crystals: a batch of n crystals.

        Returns:
            n reasons: an element that is not in the hull, or too many elements; an empty string if there is a value.
        """
        return self.hull.refused(crystals.counts)

    @torch.no_grad()
    def predict(self, crystals: Crystals) -> Prediction:
        """Energy above the hull, with the uncertainty of the formation energy.

        The energies of the reference phases are assumed to be exact.

        Args:
            crystals: a batch of n crystals.

        Returns:
            (n,) value and (n,) uncertainty in eV/atom.

        Raises:
            InputError: if a crystal has an element that is not in the hull, or more elements than the hull allows.
        """
        energy = self.formation_energy.predict(crystals)
        value = (energy.value - self.hull(crystals.counts)).to(energy.value.dtype)
        return Prediction(value, energy.uncertainty)
