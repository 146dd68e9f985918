"""Checks of crystals without the code of the environment: Wyckoff positions by pyxtal, charges by pymatgen and SMACT.

The environment builds crystals from its own tables. These functions check the crystals in another way, so that an error
in a table is found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalgfn.crystal.crystallography.oxidation_states import oxidation_state_set
from crystalgfn.crystal.formulas import formula_text, reduced

LENGTH_TOLERANCE = 1e-3
"""Largest relative difference between lengths that a lattice system makes equal."""

ANGLE_TOLERANCE = 0.05
"""Largest deviation [degrees] of an angle that a lattice system fixes."""

MAX_EDGE_RATIO = 5.0
"""Largest ratio of two edges of a usual cell. Most real cells beyond it are hexagonal cells of layered crystals."""

MAX_EDGE = 30.0
"""Longest edge of a usual cell [Å]."""

REAL_SHARES = {"charge_neutral": 36.2, "edge_ratio": 95.3, "longest_edge": 98.3, "cell_shape": 95.2}
"""Shares [%] of 57,746 real crystals of the Materials Project and WBM that pass checks with the default settings."""

SMACT_OXIDATION_STATES = "icsd24"
"""SMACT's name of the set of oxidation states for its test."""

MAX_PYXTAL_ATOMS = 64
"""Largest number of atoms of an element for which pyxtal is used; for more atoms it would take hours."""

Mask = NDArray[np.bool_]


def is_neutral(
    composition: Iterable[tuple[str, int]], oxidation_states: str = "pymatgen_common", mixed_valence: bool = False
) -> bool:
    """Whether oxidation states other than 0 can make the charges sum to zero.

    Args:
        composition: symbols and numbers of atoms.
        oxidation_states: name of a set of `crystalgfn.crystal.crystallography.OXIDATION_STATE_SETS`.
        mixed_valence: whether the atoms of an element may have two oxidation states of the same sign; if not, one.
    """
    # Bit i of `reached` stands for the total charge `lowest + i`.
    reached, lowest = 1, 0
    for symbol, count in composition:
        charges = _charges(symbol, count, oxidation_states, mixed_valence)
        if not charges:
            return False
        bits = 0
        for charge in charges:
            bits |= reached << (charge - charges[0])
        reached, lowest = bits, lowest + charges[0]
    return lowest <= 0 and bool(reached >> -lowest & 1)


@cache
def _charges(symbol: str, count: int, name: str, mixed_valence: bool) -> tuple[int, ...]:
    """Total charges, in increasing order, that ``count`` atoms of one element can have."""
    own = oxidation_state_set(name)[symbol]
    totals = {charge * count for charge in own}
    if mixed_valence:
        for low, high in combinations(own, 2):
            if (low > 0) == (high > 0):
                totals.update(low * (count - k) + high * k for k in range(1, count))
    return tuple(sorted(totals))


def assignment_is_right(text: str, counts: Mapping[str, int]) -> bool:
    """Whether a text such as ``Na+:4 Cl-:4`` can be read by pymatgen, is neutral and matches a composition."""
    from pymatgen.core import Species

    atoms: dict[str, int] = {}
    charge = 0
    for item in text.split():
        name, _, number = item.rpartition(":")
        try:
            species, n = Species.from_str(name), int(number)
        except ValueError:
            return False
        atoms[species.symbol] = atoms.get(species.symbol, 0) + n
        charge += int(species.oxi_state or 0) * n
    return charge == 0 and atoms == dict(counts)


def fits_wyckoff(group: int, counts: Iterable[int]) -> bool:
    """Whether pyxtal can place atoms on the Wyckoff positions of a space group, all elements at once.

    pyxtal tries all choices, so its time grows exponentially. Elements whose atoms all fit on positions with a free
    coordinate are left out first. Such a position can be used any number of times, so these elements take no position
    away from the others.

    Args:
        group: number, 1 to 230.
        counts: atoms of each element in the conventional cell.

    Source: pyxtal's ``Group.check_compatible``.
    """
    sizes = _free_sizes(group)
    # The result depends only on the counts, not on which element has which count.
    rest = tuple(sorted(count for count in counts if not _is_sum(count, sizes)))
    return not rest or _check_compatible(group, rest)


@cache
def _group(number: int) -> Any:
    from pyxtal.symmetry import Group

    return Group(number)


@cache
def _free_sizes(number: int) -> tuple[int, ...]:
    """Multiplicities of the positions with a free coordinate."""
    return tuple(sorted({int(position.multiplicity) for position in _group(number) if position.get_dof() > 0}))


@cache
def _is_sum(count: int, sizes: tuple[int, ...]) -> bool:
    """Whether ``count`` is a sum of the sizes, each used any number of times."""
    reached = [True] + [False] * count
    for n in range(1, count + 1):
        reached[n] = any(size <= n and reached[n - size] for size in sizes)
    return reached[count]


@cache
def _check_compatible(number: int, counts: tuple[int, ...]) -> bool:
    if max(counts) > MAX_PYXTAL_ATOMS:
        return _search(number, counts)
    return bool(_group(number).check_compatible(list(counts))[0])


def _search(number: int, counts: tuple[int, ...]) -> bool:
    """As `_check_compatible`, for many atoms: tries all choices of fixed positions; the other atoms go on free ones."""
    sizes = _free_sizes(number)
    fixed = Counter(int(p.multiplicity) for p in _group(number) if p.get_dof() == 0 and p.multiplicity not in sizes)
    usages = list(product(*(range(n + 1) for n in fixed.values())))
    taken = {(0,) * len(fixed)}
    for count in counts:
        rests = [(u, count - sum(n * m for n, m in zip(u, fixed, strict=True))) for u in usages]
        ways = [u for u, rest in rests if rest >= 0 and _is_sum(rest, sizes)]
        sums = {tuple(map(sum, zip(u, way, strict=True))) for u in taken for way in ways}
        taken = {u for u in sums if all(n <= most for n, most in zip(u, fixed.values(), strict=True))}
    return bool(taken)


def fits_lattice_system(
    groups: NDArray[np.int64],
    lattice: NDArray[np.float64],
    length_tolerance: float = LENGTH_TOLERANCE,
    angle_tolerance: float = ANGLE_TOLERANCE,
) -> Mask:
    """Whether conventional cells have the shape that the crystal system of their space group prescribes.

    Monoclinic cells have the unique axis b; trigonal (rhombohedral lattices included) and hexagonal ones have
    hexagonal axes.

    Args:
        groups: (n,) numbers of space groups.
        lattice: (n, 6) a, b, c [Å], alpha, beta, gamma [degrees].
        length_tolerance: largest relative difference between equal lengths.
        angle_tolerance: largest deviation of a fixed angle [degrees].

    Returns:
        (n,) bool.

    Source: crystal systems by the numbers of space groups, and their cells: International Tables A, 2.1.3.
    """
    a, b, c = lattice[:, :3].T
    angles = lattice[:, 3:]
    right = np.abs(angles - 90) <= angle_tolerance
    all_right = right.all(axis=1)
    a_is_b, b_is_c = np.abs(a - b) <= length_tolerance * a, np.abs(b - c) <= length_tolerance * b
    hexagonal = right[:, 0] & right[:, 1] & (np.abs(angles[:, 2] - 120) <= angle_tolerance) & a_is_b
    # triclinic, monoclinic, orthorhombic, tetragonal, trigonal, hexagonal, cubic
    shapes = np.stack(
        [
            np.ones(len(lattice), dtype=bool),
            right[:, 0] & right[:, 2],
            all_right,
            all_right & a_is_b,
            hexagonal,
            hexagonal,
            all_right & a_is_b & b_is_c,
        ],
        axis=1,
    )
    system = np.searchsorted([2, 15, 74, 142, 167, 194], groups)
    return np.asarray(shapes[np.arange(len(lattice)), system], dtype=np.bool_)


def cell_shapes(lattice: NDArray[np.float64]) -> dict[str, Mask]:
    """Whether cells have a shape that is usual for real crystals.

    A model that is free to choose the lengths of a cell tends to long, thin cells. They can pass every check of
    validity, but the atoms hardly fit into them.

    Args:
        lattice: (n, 6) a, b, c [Å], alpha, beta, gamma [degrees] of conventional cells.

    Returns:
        (n,) bool each: ``edge_ratio``, at most `MAX_EDGE_RATIO`; ``longest_edge``, at most `MAX_EDGE`; and
        ``cell_shape``, both.
    """
    longest, shortest = lattice[:, :3].max(axis=1), lattice[:, :3].min(axis=1)
    ratio, edge = longest <= MAX_EDGE_RATIO * shortest, longest <= MAX_EDGE
    return {"cell_shape": ratio & edge, "edge_ratio": ratio, "longest_edge": edge}


def cell_volumes(lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) volume of cells [Å³], from the determinant of the metric; 0 if the parameters form no cell.

    Args:
        lattice: (n, 6) a, b, c [Å], alpha, beta, gamma [degrees].
    """
    lengths, cosines = lattice[:, :3], np.cos(np.deg2rad(lattice[:, 3:]))
    metric = lengths[:, :, None] * lengths[:, None, :]
    for (i, j), angle in {(1, 2): 0, (0, 2): 1, (0, 1): 2}.items():
        metric[:, i, j] *= cosines[:, angle]
        metric[:, j, i] *= cosines[:, angle]
    square = np.nan_to_num(np.linalg.det(metric), nan=0.0, posinf=0.0, neginf=0.0)
    proper = (lengths > 0).all(axis=1) & (square > 0)
    return np.sqrt(np.where(proper, square, 0.0))


def smact_version() -> str | None:
    """Version of the package smact; None if it is not installed."""
    if find_spec("smact") is None:
        return None
    from importlib.metadata import version

    return version("smact")


@cache
def passes_smact(composition: tuple[tuple[str, int], ...]) -> bool:
    """SMACT's validity test: neutral with anions more electronegative than cations, or an alloy, or one element.

    Source: ``smact.screening.smact_validity`` with the oxidation states `SMACT_OXIDATION_STATES` and its other
    default settings.
    """
    from smact.screening import smact_validity

    least = tuple(reduced(dict(composition)).items())
    if least != composition:
        return passes_smact(least)
    formula = formula_text(dict(composition)).replace(" ", "")
    return bool(smact_validity(formula, oxidation_states_set=SMACT_OXIDATION_STATES))
