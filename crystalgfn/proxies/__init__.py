"""Proxies: predict a property of an object."""

from crystalgfn.proxies.band_gap import BandGap
from crystalgfn.gflownet.proxies.base import Prediction, Proxy
from crystalgfn.proxies.chgnet import CHGNetEnergy
from crystalgfn.proxies.density import Density
from crystalgfn.proxies.energy_above_hull import EnergyAboveHull
from crystalgfn.proxies.formation_energy import FormationEnergy
from crystalgfn.gflownet.proxies.hypergrid import HyperGridModes
from crystalgfn.gflownet.proxies.modes import BoxCorners, HammingDistance, SetOverlap
from crystalgfn.gflownet.proxies.of_stage import OfStage
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
from crystalgfn.gflownet.proxies.proxy_set import ProxySet

__all__ = [
    "AnionKinds",
    "AtomCount",
    "BandGap",
    "BoxCorners",
    "CHGNetEnergy",
    "Density",
    "ElectronegativityOrder",
    "ElementCount",
    "EnergyAboveHull",
    "FormationEnergy",
    "FormulaRarity",
    "HammingDistance",
    "HyperGridModes",
    "OfStage",
    "Prediction",
    "PropertyModel",
    "PrototypeRarity",
    "Proxy",
    "ProxySet",
    "SetOverlap",
    "VolumeMismatch",
]
