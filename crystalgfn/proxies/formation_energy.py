"""Formation energy from composition, space group and lattice parameters."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from crystalgfn.crystals import Crystals
from crystalgfn.proxies.base import Prediction, Proxy
from crystalgfn.proxies.property_network import PropertyNetwork
from crystalgfn.registry import PROXIES

SHIPPED_WEIGHTS = Path(__file__).parent / "weights" / "formation_energy.pt"

OUTSIDE_SLOPE = 0.1
"""Rise of the energy [eV/atom] for each standard deviation outside of the training range. An assumption, chosen so that
it changes real crystals little (3 % of a table of 57,000 leave the range at all) and rules out absurd cells."""


@PROXIES.register
class FormationEnergy(Proxy):
    """Formation energy [eV/atom] from composition, space group and cell, by an ensemble of small networks.

    A generative model finds the inputs where a network errs, so nothing is extrapolated: every feature of the cell
    and of the composition (volume per atom, volume over the sum of atomic volumes, lengths, cosines, numbers of
    atoms, ...) is saturated at the range that 99.9 % of the training rows span, and the prediction of each member
    at the lowest and highest formation energy in training. Outside of that range nothing is known, and a needle of a
    cell would score like a real crystal: there the energy is taken to rise, by `OUTSIDE_SLOPE` for each standard
    deviation by which a feature leaves its range. The model card, ``weights/formation_energy.md``, gives errors and
    limits.

    Args:
        weights: file that ``crystalgfn train-proxy`` wrote for the property ``formation_energy``; the shipped weights
            if None.

    Raises:
        InputError: if the file cannot be used; the message says why.

    Source: PBE(+U) formation energies of the Materials Project and WBM; energy relative to the elements' ground states.
    """

    name = "formation_energy"
    unit = "eV/atom"
    direction = "minimize"
    valid_range = (-4.6, 5.2)
    has_uncertainty = True

    def __init__(self, weights: Path | str | None = None) -> None:
        super().__init__()
        path = SHIPPED_WEIGHTS if weights is None else Path(weights)
        self.network = PropertyNetwork.load(path, property_name=self.name)
        self.train(False)

    def train(self, mode: bool = True) -> FormationEnergy:
        """Stay in evaluation mode: a trainer that switches all its modules must not switch dropout on here."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, crystals: Crystals) -> Tensor:
        """Formation energy of each crystal.

        Args:
            crystals: a batch of n crystals; counts and lengths [Å] refer to the conventional cell.

        Returns:
            (n,) float32 formation energy in eV/atom: the mean over the members of the ensemble, and the rise outside
            of the training range.
        """
        return self.predict(crystals).value

    @torch.no_grad()
    def predict(self, crystals: Crystals) -> Prediction:
        """Formation energy and, as its uncertainty, the standard deviation over the members of the ensemble [eV/atom]."""
        members, outside = self.network.with_distance(crystals)
        return Prediction(members.mean(0) + OUTSIDE_SLOPE * outside, members.std(0, correction=0))
