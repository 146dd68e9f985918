"""Band gap from composition, space group and lattice parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from crystalgfn.proxies.property_model import SHIPPED, PropertyModel
from crystalgfn.registry import PROXIES

SHIPPED_WEIGHTS = SHIPPED / "band_gap.pt"


@PROXIES.register
class BandGap(PropertyModel):
    """PBE band gap [eV], predicted from composition, space group and cell by an ensemble of small networks.

    Most crystals have no gap. Each network predicts how probable a gap is, and how large it is if there is one. The
    prediction is 0 if a metal is more probable, and the gap otherwise. It is never a mean of the two cases: if a
    crystal is either a metal or has a gap of 2.7 eV, the value 1.35 eV is wrong in both cases. Such a crystal has a
    large uncertainty instead. The model card, ``crystalgfn/proxies/network/weights/band_gap.md``, gives errors and
    limits.

    Args:
        weights: file that ``crystalgfn train-proxy`` wrote for the property ``band_gap``; None for the shipped weights.
        direction: ``minimize`` if you look for low gaps, ``maximize`` for high gaps; it sorts top-k tables.

    Raises:
        InputError: if the file or the direction cannot be used; the message says why.

    Source: PBE gaps of the Materials Project and WBM; PBE underestimates measured gaps by about 40 %.
    """

    name = "band_gap"
    unit = "eV"
    direction = "maximize"

    def __init__(
        self, weights: Path | str | None = None, direction: Literal["minimize", "maximize"] = "maximize"
    ) -> None:
        super().__init__(SHIPPED_WEIGHTS if weights is None else weights, direction)
