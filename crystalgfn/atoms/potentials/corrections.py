"""The corrections that the Materials Project adds to energies of PBE and PBE+U since 2020.

Source: Wang et al., Scientific Reports 11, 15496 (2021), doi:10.1038/s41598-021-94550-5, as implemented in pymatgen.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from crystalgfn.atoms.potentials.quiet import silence

if TYPE_CHECKING:
    from pymatgen.core import Structure


@cache
def _scheme() -> Any:
    from pymatgen.entries.compatibility import MaterialsProject2020Compatibility

    return MaterialsProject2020Compatibility(check_potcar=False)


def mp2020(structure: Structure) -> float:
    """Corrections of 2020 of the Materials Project: for anions, and for oxides and fluorides computed with +U.

    The structure decides between oxide, peroxide and superoxide. Oxides and fluorides of Co, Cr, Fe, Mn, Mo, Ni, V and
    W count as computed with +U, because the Materials Project computes them so, and a potential learns such energies.

    Args:
        structure: ordered structure.

    Returns:
        the sum of the corrections for the cell [eV].
    """
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    with silence():
        scheme = _scheme()
        elements = structure.composition.elements
        # Helium, neon and argon have no electronegativity (NaN).
        anion = max(elements, key=lambda element: element.X if element.X == element.X else 0.0).symbol
        with_u = scheme.u_settings.get(anion, {})
        hubbards = {element.symbol: with_u[element.symbol] for element in elements if element.symbol in with_u}
        parameters = {"run_type": "GGA+U" if hubbards else "GGA", "hubbards": hubbards}
        entry = ComputedStructureEntry(structure, 0.0, parameters=parameters)
        return float(sum(adjustment.value for adjustment in scheme.get_adjustments(entry)))
