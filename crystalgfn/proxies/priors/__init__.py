"""Chemical priors as proxies: common formulas and prototypes, usual volumes, charges, and sizes of crystals."""

from crystalgfn.proxies.priors.anions import AnionKinds, ElectronegativityOrder
from crystalgfn.proxies.priors.rarity import FormulaRarity, PrototypeRarity
from crystalgfn.proxies.priors.size import AtomCount, ElementCount
from crystalgfn.proxies.priors.volume import VolumeMismatch

__all__ = [
    "AnionKinds",
    "AtomCount",
    "ElectronegativityOrder",
    "ElementCount",
    "FormulaRarity",
    "PrototypeRarity",
    "VolumeMismatch",
]
