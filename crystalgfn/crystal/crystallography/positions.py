"""Wyckoff positions of a space group as affine maps, and ways to distribute a composition over them.

Everything refers to the standard setting of the International Tables as used by pyxtal: unique axis b, cell choice 1,
hexagonal axes for rhombohedral groups, origin choice 2. A sampled cell is pymatgen's conventional standard cell, in
which the axes are sorted by length. It can correspond to several cells in the standard setting; `settings` gives all of
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from crystalgfn.crystal.crystallography.cells import fits_group, regular_cells
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
"""Vectors of a primitive cell for each centring, as rows, in units of the vectors of the conventional cell."""

ORBIT_PENALTY = 1.0
"""Each orbit multiplies the weight of a way by exp(-ORBIT_PENALTY), because crystals tend to have few different sites
(Pauling's rule of parsimony)."""


@dataclass(frozen=True)
class Position:
    """One Wyckoff position.

    Attributes:
        label: multiplicity in the conventional cell and letter, such as ``4a``.
        multiplicity: atoms in the conventional cell.
        freedom: number of free coordinates, 0 to 3.
        rotations: (m, 3, 3), one matrix for each of the m atoms in the primitive cell.
        translations: (m, 3), one vector for each atom. For a point u, atom j is at
            ``rotations[j] @ u + translations[j]``, in fractional coordinates of the conventional cell.
    """

    label: str
    multiplicity: int
    freedom: int
    rotations: Array
    translations: Array


@dataclass(frozen=True)
class Way:
    """One way to distribute a composition over Wyckoff positions.

    Attributes:
        orbits: for each orbit, the index of its element in the composition and the index of its position in the group;
            sorted.
        freedom: total number of free coordinates of all orbits.
    """

    orbits: tuple[tuple[int, int], ...]
    freedom: int


@cache
def centring(number: int) -> str:
    """Letter of the centring of a space group's lattice in the standard setting."""
    return space_groups()[number - 1].symbol[0]


@cache
def positions(number: int) -> tuple[Position, ...]:
    """Wyckoff positions of a space group, the general position first.

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
    """Indices of the operations for the atoms of a primitive cell: one of each set that differs by lattice vectors."""
    # A point in general position is enough: operations that agree there agree everywhere.
    point = np.array([0.1234567, 0.2718281, 0.3141592])
    fractional = (rotations @ point + translations) @ to_primitive
    keep: list[int] = []
    for index, row in enumerate(fractional):
        difference = fractional[keep] - row
        if not (np.abs(difference - difference.round()) < 1e-5).all(axis=1).any():
            keep.append(index)
    return keep


def settings(number: int, lattice: Array) -> list[Array]:
    """Cells in the standard setting that a conventional standard cell can correspond to.

    pymatgen sorts the axes of orthorhombic cells by length, except for the axis normal to a C face, and changes an A
    centring to a C centring. In primitive monoclinic cells, the glide can be along c, along a or along their diagonal.

    Args:
        number: number of the space group.
        lattice: (6,) a, b, c [Å], alpha, beta, gamma [degrees].

    Returns:
        (3, 3) matrices with the cell vectors as rows [Å]; equal cells are given once.

    Raises:
        ValueError: if the cell does not have the shape of the space group's crystal system.
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
    """Lattice parameters without rounding errors; raises ValueError if the cell does not fit the crystal system."""
    groups, cells = np.array([number]), np.asarray(lattice, dtype=np.float64)[None]
    if not fits_group(groups, cells)[0]:
        system = space_groups()[number - 1].crystal_system
        raise ValueError(f"the cell is not {system}, which space group {number} requires")
    a, b, c, alpha, beta, gamma = regular_cells(groups, cells)[0].tolist()
    return a, b, c, alpha, beta, gamma


def ways(number: int, counts: Mapping[str, int], most: int, random: np.random.Generator) -> list[Way]:
    """Draw random ways to distribute a composition over the positions of a group; ways with few orbits are more likely.

    Args:
        number: number of the space group.
        counts: number of atoms of each element in the conventional cell, by symbol.
        most: largest number of different ways.
        random: the random generator.

    Returns:
        different ways, in the order in which they were first drawn. There are fewer than ``most`` if 8 * ``most`` draws
        do not find more, and none if the composition does not fit.
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
    """Total weights of the ways to distribute the atoms of one element.

    Returns:
        (positions + 1, count + 1), where entry (i, n) is the total weight of the ways to put n atoms on the positions
        i, i + 1, ...
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
            # A fixed position holds one orbit. A free position holds any number, so it may be used again.
            below = sums[index + 1 if group[index].freedom == 0 else index, n - size]
            sums[index, n] += factor * below
    return sums


def _draw(
    group: tuple[Position, ...], sums: Array, count: int, taken: frozenset[int], random: np.random.Generator
) -> list[int] | None:
    """Draw positions for one element with a probability proportional to their weight; None if its atoms do not fit."""
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
