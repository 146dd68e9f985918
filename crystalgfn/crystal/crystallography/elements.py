"""The elements that can be part of a crystal."""

from __future__ import annotations

import math
from functools import cache

N_ELEMENTS = 94
"""Elements 1 (H) to 94 (Pu) can be part of a crystal."""


@cache
def element_symbols() -> tuple[str, ...]:
    """Symbols of the elements 1 to 94; the symbol of atomic number Z is at index Z - 1."""
    from pymatgen.core import Element

    return tuple(Element.from_Z(z).symbol for z in range(1, N_ELEMENTS + 1))


@cache
def atomic_numbers() -> dict[str, int]:
    """Atomic number of each of the elements 1 to 94, by symbol."""
    return {symbol: z for z, symbol in enumerate(element_symbols(), start=1)}


@cache
def electronegativity_order() -> tuple[int, ...]:
    """Atomic numbers of the elements 1 to 94 by rising Pauling electronegativity; elements without a value are last."""
    from pymatgen.core import Element

    def key(z: int) -> tuple[float, int]:
        # `Element.X` gives a warning for noble gases; the raw table just has no number for them.
        x = Element.from_Z(z).data.get("X")
        return (x if isinstance(x, int | float) and not math.isnan(x) else math.inf, z)

    return tuple(sorted(range(1, N_ELEMENTS + 1), key=key))
