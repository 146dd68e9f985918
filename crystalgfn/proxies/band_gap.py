"""Band gap from composition, space group and lattice parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from crystalgfn.proxies.property_model import SHIPPED, PropertyModel
from crystalgfn.registry import PROXIES

SHIPPED_WEIGHTS = SHIPPED / "band_gap.pt"


@PROXIES.register
class BandGap(PropertyModel):
    """Band gap [eV], PBE, from composition, space group and cell, by an ensemble of small networks.

    Most crystals have none. Each network says how probable a gap is and how large it is if there is one; the prediction
    is 0 where a metal is the more probable, else the gap. It is never a mean of the two cases: a crystal that may be a
    metal or have 2.7 eV does not have 1.35 eV, its uncertainty is large instead. The model card,
    ``weights/band_gap.md``, gives errors and limits.

    Args:
        weights: file that ``crystalgfn train-proxy`` wrote for the property ``band_gap``; the shipped weights if None.
        direction: whether low or high gaps are looked for, where tables are sorted.

    Raises:
        InputError: if the file cannot be used; the message says why.

    Source: PBE gaps of the Materials Project and WBM; PBE underestimates measured gaps, by about 40 %.
    """

    name = "band_gap"
    unit = "eV"
    direction = "maximize"

    def __init__(
        self, weights: Path | str | None = None, direction: Literal["minimize", "maximize"] = "maximize"
    ) -> None:
        super().__init__(SHIPPED_WEIGHTS if weights is None else weights, direction)
