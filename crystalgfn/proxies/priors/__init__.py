"""What a chemist expects of a crystal, as proxies: known prototypes, usual volumes, cations and anions in order."""

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
