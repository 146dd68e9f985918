"""Wyckoff positions of a space group as affine maps, and ways to put a composition on them.

Everything refers to the standard setting of the International Tables as pyxtal keeps it: unique axis b, cell choice 1,
hexagonal axes for rhombohedral groups, origin choice 2. A sampled cell is pymatgen's conventional standard cell, which
sorts axes by length: `settings` gives all cells in the standard setting that it may stand for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from crystalgfn.crystal.crystallography.space_groups import space_groups

Array = NDArray[np.float64]

CENTRINGS: dict[str, Array] = {
    "P": np.eye(3),
    "A": np.array([[1, 0, 0], [0, 0.5, -0.5], [0, 0.5, 0.5]]),
    "C": np.array([[0.5, 0.5, 0], [-0.5, 0.5, 0], [0, 0, 1]]),
    "I": np.array([[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]]),
    "F": np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]),
    "R": np.array([[2, 1, 1], [-1, 1, 1], [-1, -2, 1]]) / 3,
}
"""Vectors of a primitive cell, as rows, in units of the conventional ones."""

ORBIT_PENALTY = 1.0
"""Each orbit of a way makes it exp(-1) times as likely: crystals have few different sites (Pauling's rule of
parsimony)."""

CELL_TOLERANCE = 2e-3
"""Relative deviation (angles: times 90 degrees) from the shape of the lattice system that is taken for rounding."""


@dataclass(frozen=True)
class Position:
    """One Wyckoff position.

    Attributes:
        label: multiplicity in the conventional cell and letter, such as ``4a``.
        multiplicity: atoms in the conventional cell.
        freedom: number of free coordinates, 0 to 3.
        rotations: (m, 3, 3), one for each atom of the primitive cell.
        translations: (m, 3); atom j lies at ``rotations[j] @ u + translations[j]``, fractional coordinates of the
            conventional cell, for a point u.
    """

    label: str
    multiplicity: int
    freedom: int
    rotations: Array
    translations: Array


@dataclass(frozen=True)
class Way:
    """One way to put a composition on positions.

    Attributes:
        orbits: for each orbit the index of its element in the composition and of its position in the group, sorted.
        freedom: free coordinates of all orbits together.
    """

    orbits: tuple[tuple[int, int], ...]
    freedom: int


@cache
def centring(number: int) -> str:
    """Letter of the lattice's centring in the standard setting."""
    return space_groups()[number - 1].symbol[0]


@cache
def positions(number: int) -> tuple[Position, ...]:
    """Wyckoff positions of a group, the general one first.

    Source: pyxtal's tables of the International Tables A.
    """
    from pyxtal.symmetry import Group

    to_primitive: Array = np.linalg.inv(CENTRINGS[centring(number)]).astype(np.float64)
    found = []
    for position in Group(number, quick=False):
        rotations: Array = np.array([op.rotation_matrix for op in position.ops])
        translations: Array = np.array([op.translation_vector for op in position.ops])
        keep = _primitive(rotations, translations, to_primitive)
        found.append(
            Position(
                f"{position.multiplicity}{position.letter}",
                int(position.multiplicity),
                int(np.linalg.matrix_rank(rotations[0])),
                rotations[keep],
                translations[keep],
            )
        )
    return tuple(found)


def _primitive(rotations: Array, translations: Array, to_primitive: Array) -> list[int]:
    """One operation of each set that differs by vectors of the lattice."""
    # Two points in general suffice to tell atoms apart that are not the same everywhere.
    point = np.array([0.1234567, 0.2718281, 0.3141592])
    fractional = (rotations @ point + translations) @ to_primitive
    keep: list[int] = []
    for index, row in enumerate(fractional):
        difference = fractional[keep] - row
        if not (np.abs(difference - difference.round()) < 1e-5).all(axis=1).any():
            keep.append(index)
    return keep


def settings(number: int, lattice: Array) -> list[Array]:
    """Cells in the standard setting that a conventional standard cell may stand for.

    pymatgen sorts the axes of orthorhombic cells by length, except for the one normal to a C face, and writes A
    centring as C; in primitive monoclinic cells the glide may run along c, along a or along their diagonal.

    Args:
        number: space group.
        lattice: (6,) a, b, c [Å], alpha, beta, gamma [degrees].

    Returns:
        (3, 3) matrices, vectors as rows [Å]; cells of equal shape once.

    Raises:
        ValueError: if the cell has not the shape of the group's lattice system.
    """
    from pymatgen.core import Lattice

    a, b, c, alpha, beta, gamma = _regular(number, lattice)
    kind = centring(number)
    if 16 <= number <= 74:
        orders = {
            "C": [(a, b, c), (b, a, c)],
            "A": [(c, a, b), (c, b, a)],
        }.get(kind, [(a, b, c), (b, c, a), (c, a, b), (a, c, b), (b, a, c), (c, b, a)])
        return [np.diag(lengths) for lengths in dict.fromkeys(orders)]
    cell = np.array(Lattice.from_parameters(a, b, c, alpha, beta, gamma).matrix)
    if number in (7, 13, 14):
        x, y, z = cell
        return [np.array([x, y, z]), np.array([-z, y, x]), np.array([x, y, x + z])]
    return [cell]


def _regular(number: int, lattice: Array) -> tuple[float, float, float, float, float, float]:
    """Lattice parameters with the rounding taken out, or a ValueError."""
    a, b, c, alpha, beta, gamma = (float(x) for x in lattice)
    system = space_groups()[number - 1].crystal_system
    if system == "triclinic":
        return a, b, c, alpha, beta, gamma
    exact = {
        "monoclinic": (a, b, c, 90.0, beta, 90.0),
        "orthorhombic": (a, b, c, 90.0, 90.0, 90.0),
        "tetragonal": ((a + b) / 2, (a + b) / 2, c, 90.0, 90.0, 90.0),
        "trigonal": ((a + b) / 2, (a + b) / 2, c, 90.0, 90.0, 120.0),
        "hexagonal": ((a + b) / 2, (a + b) / 2, c, 90.0, 90.0, 120.0),
        "cubic": ((a + b + c) / 3,) * 3 + (90.0, 90.0, 90.0),
    }[system]
    given = np.array([a, b, c, alpha, beta, gamma])
    scale = np.array([*exact[:3], 90.0, 90.0, 90.0])
    if (np.abs(given - exact) > CELL_TOLERANCE * scale).any():
        raise ValueError(f"the cell is not {system}, which space group {number} demands")
    return exact


def ways(number: int, counts: Mapping[str, int], most: int, random: np.random.Generator) -> list[Way]:
    """Ways to put a composition on the positions of a group, drawn at random, simple ones more often.

    Args:
        number: space group.
        counts: atoms of each element in the conventional cell.
        most: how many different ways at most.
        random: the generator.

    Returns:
        different ways in the order in which they were met; all of them if there are few; none if the composition does
        not fit.
    """
    group = positions(number)
    elements = list(counts.values())
    found: dict[tuple[tuple[int, int], ...], Way] = {}
    tables: dict[tuple[int, frozenset[int]], Array] = {}
    for _ in range(8 * most):
        taken: frozenset[int] = frozenset()
        orbits: list[tuple[int, int]] = []
        for element in random.permutation(len(elements)).tolist():
            key = (elements[element], taken)
            if key not in tables:
                tables[key] = _sums(group, elements[element], taken)
            chosen = _draw(group, tables[key], elements[element], taken, random)
            if chosen is None:
                break
            orbits += [(element, position) for position in chosen]
            taken |= {position for position in chosen if group[position].freedom == 0}
        else:
            way = tuple(sorted(orbits))
            found.setdefault(way, Way(way, sum(group[position].freedom for _, position in way)))
        if len(found) >= most:
            break
    return list(found.values())


def _sums(group: tuple[Position, ...], count: int, taken: frozenset[int]) -> Array:
    """Weights of all ways for one element, (positions + 1, count + 1).

    Entry (i, n) is the summed weight of the ways to put n atoms on positions i, i + 1, ...
    """
    factor = np.exp(-ORBIT_PENALTY)
    sums = np.zeros((len(group) + 1, count + 1))
    sums[-1, 0] = 1.0
    for index in range(len(group) - 1, -1, -1):
        sums[index] = sums[index + 1]
        size = group[index].multiplicity
        if index in taken:
            continue
        for n in range(size, count + 1):
            # A fixed position holds one orbit; a free one any number, so that it may be used again.
            below = sums[index + 1 if group[index].freedom == 0 else index, n - size]
            sums[index, n] += factor * below
    return sums


def _draw(
    group: tuple[Position, ...], sums: Array, count: int, taken: frozenset[int], random: np.random.Generator
) -> list[int] | None:
    """Positions for one element with the probability of their weight; None if there are none."""
    if sums[0, count] <= 0:
        return None
    chosen: list[int] = []
    index, left = 0, count
    while left or index < len(group):
        if random.random() * sums[index, left] < sums[index + 1, left]:
            index += 1
            continue
        chosen.append(index)
        left -= group[index].multiplicity
        index += group[index].freedom == 0
    return chosen
