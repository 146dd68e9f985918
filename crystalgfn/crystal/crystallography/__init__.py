"""Tables of crystallography and chemistry, derived from spglib, pyxtal and pymatgen."""

from crystalgfn.crystal.crystallography.elements import (
    N_ELEMENTS,
    atomic_numbers,
    electronegativity_order,
    element_symbols,
)
from crystalgfn.crystal.crystallography.oxidation_states import (
    OXIDATION_STATE_SETS,
    charge_assignments,
    oxidation_state_set,
)
from crystalgfn.crystal.crystallography.space_groups import (
    CRYSTAL_LATTICE_SYSTEMS,
    N_SPACE_GROUPS,
    POINT_SYMMETRIES,
    SpaceGroupInfo,
    space_groups,
)
from crystalgfn.crystal.crystallography.wyckoff import NOWHERE, WyckoffAutomaton, has_room

__all__ = [
    "CRYSTAL_LATTICE_SYSTEMS",
    "NOWHERE",
    "N_ELEMENTS",
    "N_SPACE_GROUPS",
    "OXIDATION_STATE_SETS",
    "POINT_SYMMETRIES",
    "SpaceGroupInfo",
    "WyckoffAutomaton",
    "atomic_numbers",
    "charge_assignments",
    "electronegativity_order",
    "element_symbols",
    "has_room",
    "oxidation_state_set",
    "space_groups",
]
