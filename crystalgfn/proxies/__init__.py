"""Proxies for crystals: density, formation energy, energy above the hull, band gap and chemical priors."""

from crystalgfn.proxies.band_gap import BandGap
from crystalgfn.proxies.density import Density
from crystalgfn.proxies.energy_above_hull import EnergyAboveHull
from crystalgfn.proxies.formation_energy import FormationEnergy
from crystalgfn.proxies.priors import (
    AnionKinds,
    AtomCount,
    ElectronegativityOrder,
    ElementCount,
    FormulaRarity,
    PrototypeRarity,
    VolumeMismatch,
)
from crystalgfn.proxies.property_model import PropertyModel

__all__ = [
    "AnionKinds",
    "AtomCount",
    "BandGap",
    "Density",
    "ElectronegativityOrder",
    "ElementCount",
    "EnergyAboveHull",
    "FormationEnergy",
    "FormulaRarity",
    "PropertyModel",
    "PrototypeRarity",
    "VolumeMismatch",
]
