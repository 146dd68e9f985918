"""Lookup tables from space groups to their classes, so that metrics need no loop over samples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from crystalgfn.crystal.crystallography import CRYSTAL_LATTICE_SYSTEMS, POINT_SYMMETRIES, space_groups

CRYSTAL_SYSTEMS = ("triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic")
"""The seven crystal systems, in the order of the space groups."""

LATTICE_SYSTEMS = ("triclinic", "monoclinic", "orthorhombic", "tetragonal", "rhombohedral", "hexagonal", "cubic")
"""The seven lattice systems."""

_NAMES = {
    "crystal_system": CRYSTAL_SYSTEMS,
    "lattice_system": LATTICE_SYSTEMS,
    "crystal_lattice_system": CRYSTAL_LATTICE_SYSTEMS,
    "point_symmetry": POINT_SYMMETRIES,
}


@dataclass(frozen=True)
class GroupClasses:
    """One classification of the space groups.

    Attributes:
        names: names of the classes.
        of_group: (230,) int64, position in ``names`` of the class of space group number index + 1.
    """

    names: tuple[str, ...]
    of_group: Tensor


@cache
def group_classes(kind: str) -> GroupClasses:
    """Classes of the space groups.

    Args:
        kind: ``crystal_system`` (7), ``lattice_system`` (7), ``crystal_lattice_system`` (8) or ``point_symmetry`` (5).

    Raises:
        KeyError: for another kind.
    """
    names = _NAMES[kind]
    # The result is cached. A tensor made in inference mode could not be used in training later.
    with torch.inference_mode(False):
        return GroupClasses(names, torch.tensor([names.index(getattr(group, kind)) for group in space_groups()]))
