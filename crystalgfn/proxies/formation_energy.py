"""Formation energy from composition, space group and lattice parameters."""

from __future__ import annotations

from pathlib import Path

from crystalgfn.proxies.property_model import SHIPPED, PropertyModel
from crystalgfn.registry import PROXIES

SHIPPED_WEIGHTS = SHIPPED / "formation_energy.pt"

TAUGHT = "taught"
"""Name of the shipped weights that were taught by CHGNet's labels in a discovery run (docs/discovery.md)."""

TAUGHT_WEIGHTS = SHIPPED / "formation_energy_taught.pt"

OUTSIDE_SLOPE = 0.1
"""Rise of the energy [eV/atom] for each standard deviation outside of the training range. An assumption, chosen so that
it changes real crystals little (3 % of a table of 57,000 leave the range at all) and rules out absurd cells."""


@PROXIES.register
class FormationEnergy(PropertyModel):
    """Formation energy [eV/atom] from composition, space group and cell, by an ensemble of small networks.

    Outside of the range of the training rows nothing is known, and a needle of a cell would score like a real crystal:
    there the energy is taken to rise, by `OUTSIDE_SLOPE` for each standard deviation by which a feature leaves its
    range. The model card, ``weights/formation_energy.md``, gives errors and limits.

    Args:
        weights: file that ``crystalgfn train-proxy`` or ``tune-proxy`` wrote for the property ``formation_energy``; the
            shipped weights if None; ``taught`` for the shipped ones that went on learning from crystals which a model
            had proposed and CHGNet judged.

    Raises:
        InputError: if the file cannot be used; the message says why.

    Source: PBE(+U) formation energies of the Materials Project and WBM; energy relative to the elements' ground states.
    """

    name = "formation_energy"
    unit = "eV/atom"
    direction = "minimize"
    outside_slope = OUTSIDE_SLOPE

    def __init__(self, weights: Path | str | None = None) -> None:
        super().__init__(weights_file(weights), "minimize")


def weights_file(weights: Path | str | None) -> Path:
    """The file of weights that are shipped under a name, None for the usual ones, or of one's own."""
    if weights is None:
        return SHIPPED_WEIGHTS
    return TAUGHT_WEIGHTS if str(weights) == TAUGHT else Path(weights)
