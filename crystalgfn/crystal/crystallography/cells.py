"""The shape that a space group demands of its conventional cell.

The conventional cell is pymatgen's conventional standard cell: monoclinic cells have the unique axis b; trigonal cells
(rhombohedral lattices included) and hexagonal cells have hexagonal axes.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from crystalgfn.crystal.crystallography.space_groups import space_groups

Array = NDArray[np.float64]

CELL_TOLERANCE = 0.01
"""Largest deviation from the demanded shape that counts as rounding or noise: relative for lengths, in units of
90 degrees for angles. A cell within it is made exact where atoms are placed."""

SHAPES: dict[str, tuple[str, tuple[int, int, int], tuple[float, float, float]]] = {
    "triclinic": ("any cell", (0, 1, 2), (0, 0, 0)),
    "monoclinic": ("alpha = gamma = 90 degrees", (0, 1, 2), (90, 0, 90)),
    "orthorhombic": ("all angles 90 degrees", (0, 1, 2), (90, 90, 90)),
    "tetragonal": ("a = b and all angles 90 degrees", (0, 0, 2), (90, 90, 90)),
    "trigonal": ("a = b, alpha = beta = 90 and gamma = 120 degrees", (0, 0, 2), (90, 90, 120)),
    "hexagonal": ("a = b, alpha = beta = 90 and gamma = 120 degrees", (0, 0, 2), (90, 90, 120)),
    "cubic": ("a = b = c and all angles 90 degrees", (0, 0, 0), (90, 90, 90)),
}
"""For each crystal system: its cell in words; for each length, the index of the first length that it must equal; the
value of each angle [degrees], 0 for a free one.

Source: International Tables A, 2.1.3.
"""


@cache
def systems() -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """(230,) index of the crystal system of each space group, and the names of the systems."""
    names = tuple(SHAPES)
    return np.array([names.index(group.crystal_system) for group in space_groups()]), names


def regular_cells(groups: NDArray[np.int64], lattice: Array) -> Array:
    """The nearest cells of the demanded shape: equal lengths get their mean, fixed angles their values.

    Args:
        groups: (n,) numbers of the space groups, 1 to 230.
        lattice: (n, 6) a, b, c [Å], alpha, beta, gamma [degrees].

    Returns:
        (n, 6) lattice parameters.
    """
    of_group, names = systems()
    system = of_group[groups - 1]
    first = np.array([SHAPES[name][1] for name in names])[system]
    fixed = np.array([SHAPES[name][2] for name in names], dtype=np.float64)[system]
    tied = first[:, :, None] == first[:, None, :]
    lengths = (tied * lattice[:, None, :3]).sum(2) / tied.sum(2)
    return np.concatenate([lengths, np.where(fixed > 0, fixed, lattice[:, 3:])], axis=1)


def fits_group(groups: NDArray[np.int64], lattice: Array, tolerance: float = CELL_TOLERANCE) -> NDArray[np.bool_]:
    """Whether cells have the shape that their space groups demand.

    Args:
        groups: (n,) numbers of the space groups, 1 to 230.
        lattice: (n, 6) a, b, c [Å], alpha, beta, gamma [degrees] of the conventional cells.
        tolerance: largest deviation, relative for lengths, in units of 90 degrees for angles.

    Returns:
        (n,) bool.
    """
    exact = regular_cells(groups, lattice)
    scale = np.concatenate([exact[:, :3], np.full((len(exact), 3), 90.0)], axis=1)
    return np.asarray((np.abs(lattice - exact) <= tolerance * scale).all(axis=1), dtype=np.bool_)
