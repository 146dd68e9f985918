"""Reasons to doubt that a relaxed crystal is what the model proposed: molecules, collapse, another volume or symmetry.

A low energy alone does not show this. A potential may relax a crystal into molecules that only share a cell, or into
distances that it has not learned, and the relaxed structure may have little in common with the sampled crystal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from crystalgfn.crystal.crystallography import atomic_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymatgen.core import Structure

BONDS: Mapping[str, float] = {
    "H": 0.741, "N": 1.098, "O": 1.208, "F": 1.412, "Cl": 1.988, "Br": 2.281, "I": 2.666,
}  # fmt: skip
"""Bond lengths [Å] of the molecules H2, N2, O2, F2, Cl2, Br2 and I2 in the gas: Huber and Herzberg, 1979."""

LONGER = 1.05
"""Two atoms are a molecule up to this multiple of its bond length. PBE makes the bonds about 2 % longer; the bonds of
the ions O2- (1.28 Å), N3- (1.17 Å), Br3- and I3- are at least 6 % longer. Of 2,500 real crystals 11 have a molecule."""

CROWDED = 0.65
"""Smallest ratio of a distance to the sum of the covalent radii; 2 of 2,500 real crystals have a smaller one."""

DENSE = 6.0
"""Smallest volume per atom [Å³]; 10 of 57,746 real crystals have a smaller one."""

VOLUME = 0.3
"""Largest relative change of the volume in the relaxation. The proxy has judged the sampled cell."""

MOLECULE, COLLAPSE, OTHER_VOLUME, OTHER_SYMMETRY = "molecules", "collapsed", "other volume", "lost symmetry"
KINDS = (MOLECULE, COLLAPSE, OTHER_VOLUME, OTHER_SYMMETRY)
"""Kinds of doubts."""

MEANING = (
    "two atoms of H, N, O, F, Cl, Br or I at the distance of the molecule (up to "
    f"{100 * (LONGER - 1):.0f} % longer); atoms closer than {CROWDED} of the sum of their covalent radii, or less than "
    f"{DENSE:g} Å³ for each atom; a volume that relaxation changed by more than {100 * VOLUME:.0f} %; or a relaxed "
    "structure without the symmetry of the sampled space group"
)
"""What the doubts are, for pages."""


def doubts(structure: Structure | None, volume_change: float, symmetry: str) -> dict[str, str]:
    """Reasons to doubt a relaxed crystal.

    Args:
        structure: the relaxed structure; None leaves out the doubts that need one.
        volume_change: relative change of the volume in the relaxation; NaN if it is not known.
        symmetry: symmetry of the relaxed structure as in `crystalgfn.atoms.outputs.symmetry`; empty if not known.

    Returns:
        one text for each of `KINDS` that applies; empty if there is no doubt.
    """
    found: dict[str, str] = {}
    if structure is not None:
        found |= _of_structure(structure)
    if math.isfinite(volume_change) and abs(volume_change) > VOLUME:
        found[OTHER_VOLUME] = f"ΔV {volume_change:+.0%}".replace("-", "−")
    if symmetry in ("lower", "other"):
        found[OTHER_SYMMETRY] = OTHER_SYMMETRY
    return found


def _of_structure(structure: Structure) -> dict[str, str]:
    from crystalgfn.atoms.arrangements import distance_ratios

    found = {}
    molecules = [f"{symbol}2 ({distance:.2f} Å)" for symbol, distance in shortest(structure).items()]
    if molecules:
        found[MOLECULE] = f"molecules: {', '.join(molecules)}"
    ratio, distance = (float(values[0]) for values in distance_ratios([structure]))
    volume = structure.volume / len(structure)
    if ratio < CROWDED or volume < DENSE:
        found[COLLAPSE] = f"{COLLAPSE}: d min {distance:.2f} Å, {volume:.1f} Å³ for each atom"
    return found


def shortest(structure: Structure) -> dict[str, float]:
    """The molecules of `BONDS` in a structure: symbol of the element, and shortest distance of two such atoms [Å]."""
    centre, other, _, distance = structure.get_neighbor_list(LONGER * max(BONDS.values()))
    numbers = np.array(structure.atomic_numbers)
    result = {}
    for symbol in sorted({element.symbol for element in structure.composition} & BONDS.keys()):
        number = atomic_numbers()[symbol]
        pairs = distance[(numbers[centre] == number) & (numbers[other] == number)]
        if len(pairs) and pairs.min() <= LONGER * BONDS[symbol]:
            result[symbol] = float(pairs.min())
    return result


def count_kinds(found: Sequence[Mapping[str, str]]) -> dict[str, int]:
    """Number of crystals with each kind of doubt, for the results of `doubts` of some crystals."""
    kinds = list(chain.from_iterable(found))
    return {kind: kinds.count(kind) for kind in KINDS}
