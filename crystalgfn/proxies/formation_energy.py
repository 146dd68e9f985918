"""Formation energy from composition, space group and lattice parameters."""

from __future__ import annotations

from pathlib import Path

from crystalgfn.proxies.property_model import SHIPPED, PropertyModel
from crystalgfn.registry import PROXIES

SHIPPED_WEIGHTS = SHIPPED / "formation_energy.pt"

TAUGHT = "taught"
"""Name of the shipped weights that were fine-tuned on CHGNet labels in a discovery run (docs/discovery.md)."""

TAUGHT_WEIGHTS = SHIPPED / "formation_energy_taught.pt"

OUTSIDE_SLOPE = 0.1
"""Rise of the energy [eV/atom] for each standard deviation by which a feature lies outside its training range.

The value is an assumption. It changes real crystals little (only 3 % of a table of 57,000 are outside the range), but
excludes cells of absurd shape."""


@PROXIES.register
class FormationEnergy(PropertyModel):
    """Formation energy [eV/atom], predicted from composition, space group and cell by an ensemble of small networks.

    The training rows give no information outside their range, where a cell of absurd shape could get the energy of a
    real crystal. Therefore the energy rises there, by `OUTSIDE_SLOPE` for each standard deviation by which a feature
    lies outside its range. The model card, ``crystalgfn/proxies/network/weights/formation_energy.md``, gives errors
    and limits.

    Args:
        weights: file that ``crystalgfn train-proxy`` or ``tune-proxy`` wrote for the property ``formation_energy``;
            None for the default shipped weights; ``taught`` for shipped weights that were fine-tuned on crystals that
            a generative model proposed and CHGNet labelled.

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
    """File of the weights: None for the default shipped weights, ``taught`` for the fine-tuned ones, or a path."""
    if weights is None:
        return SHIPPED_WEIGHTS
    return TAUGHT_WEIGHTS if str(weights) == TAUGHT else Path(weights)
