"""Named sets of oxidation states, and the total charges that atoms of one element can have."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations

from crystalgfn.checks import one_of
from crystalgfn.crystal.crystallography.elements import element_symbols

_ATTRIBUTES = {
    "pymatgen_common": "common_oxidation_states",
    "pymatgen_icsd": "icsd_oxidation_states",
    "pymatgen_all": "oxidation_states",
}

OXIDATION_STATE_SETS = tuple(_ATTRIBUTES)
"""Names of the sets: pymatgen's ``Element.common_oxidation_states``, ``Element.icsd_oxidation_states`` and
``Element.oxidation_states``. The last one is the widest, but each set has oxidation states that the others lack."""


@cache
def oxidation_state_set(name: str) -> dict[str, tuple[int, ...]]:
    """Oxidation states of the elements 1 to 94, by symbol, except 0; empty for an element without any in the set.

    Args:
        name: one of `OXIDATION_STATE_SETS`.

    Raises:
        InputError: if no set has this name.
    """
    from pymatgen.core import Element

    one_of("oxidation_states", name, OXIDATION_STATE_SETS)
    return {
        symbol: tuple(sorted(int(charge) for charge in getattr(Element(symbol), _ATTRIBUTES[name]) if charge != 0))
        for symbol in element_symbols()
    }


def charge_assignments(oxidation_states: Sequence[int], count: int, mixed_valence: bool) -> dict[int, dict[int, int]]:
    """Total charges that ``count`` atoms of one element can have, each with one assignment of oxidation states.

    Args:
        oxidation_states: oxidation states of the element.
        count: number of atoms, at least 1.
        mixed_valence: whether the atoms may have two different oxidation states of the same sign, as iron in Fe3O4.
            Two opposite signs are never allowed, because pure hydrogen would then count as the salt H+ H-.

    Returns:
        for each total charge, the number of atoms in each oxidation state. If several assignments give the same charge,
        a single oxidation state is preferred to a mixture, and a mixture of closer oxidation states is preferred to one
        of more distant ones.
    """
    ways = {charge * count: {charge: count} for charge in oxidation_states}
    if mixed_valence:
        pairs = [(low, high) for low, high in combinations(sorted(oxidation_states), 2) if low * high > 0]
        for low, high in sorted(pairs, key=lambda pair: pair[1] - pair[0]):
            for n_high in range(1, count):
                charge = low * (count - n_high) + high * n_high
                ways.setdefault(charge, {low: count - n_high, high: n_high})
    return ways
