"""The 230 space groups: their classes and the multiplicities of their Wyckoff positions.

Everything is derived from the symmetry operations in spglib and the Wyckoff positions in pyxtal. This takes seconds;
the result is therefore kept in a small file in the user's cache.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from crystalgfn.cache import cache_path, cached

N_SPACE_GROUPS = 230

CRYSTAL_LATTICE_SYSTEMS = (
    "triclinic",
    "monoclinic",
    "orthorhombic",
    "tetragonal",
    "trigonal-rhombohedral",
    "trigonal-hexagonal",
    "hexagonal",
    "cubic",
)
"""Crystal systems, with the trigonal one split by its lattice system."""

POINT_SYMMETRIES = (
    "enantiomorphic-polar",
    "centrosymmetric",
    "polar",
    "enantiomorphic",
    "non-centrosymmetric",
)
"""Classes of point groups; the last class is neither polar nor enantiomorphic nor centrosymmetric."""

_CACHE_FORMAT = 1


@dataclass(frozen=True)
class SpaceGroupInfo:
    """One space group.

    Attributes:
        number: 1 to 230.
        symbol: short Hermann-Mauguin symbol.
        crystal_lattice_system: one of `CRYSTAL_LATTICE_SYSTEMS`.
        point_symmetry: one of `POINT_SYMMETRIES`.
        point_group: Hermann-Mauguin symbol of the point group.
        fixed_multiplicities: multiplicities in the conventional cell of the Wyckoff positions without a free
            coordinate, one entry for each position. Such a position can be occupied once. Multiplicities that are also
            in ``free_multiplicities`` are left out.
        free_multiplicities: multiplicities of the positions with a free coordinate, each value once. Such a position
            can be occupied any number of times.
    """

    number: int
    symbol: str
    crystal_lattice_system: str
    point_symmetry: str
    point_group: str
    fixed_multiplicities: tuple[int, ...]
    free_multiplicities: tuple[int, ...]

    @property
    def crystal_system(self) -> str:
        """One of the seven crystal systems."""
        return self.crystal_lattice_system.partition("-")[0]

    @property
    def lattice_system(self) -> str:
        """One of the seven lattice systems: trigonal groups are rhombohedral or hexagonal."""
        if self.crystal_lattice_system == "trigonal-rhombohedral":
            return "rhombohedral"
        if self.crystal_lattice_system == "trigonal-hexagonal":
            return "hexagonal"
        return self.crystal_lattice_system


@cache
def space_groups() -> tuple[SpaceGroupInfo, ...]:
    """All space groups, in order: number n is at index n - 1."""
    return cached(_cache_path(), _derive_all, _read, _write)


def _derive_all() -> tuple[SpaceGroupInfo, ...]:
    return tuple(_derive(number, hall) for number, hall in enumerate(_hall_numbers(), start=1))


def _hall_numbers() -> list[int]:
    """First Hall number of each space group, which is spglib's default setting."""
    import spglib

    first: dict[int, int] = {}
    for hall in range(1, 531):
        kind = spglib.get_spacegroup_type(hall)
        if kind is None:
            raise RuntimeError(f"spglib does not know Hall number {hall}")
        first.setdefault(kind.number, hall)
    return [first[number] for number in range(1, N_SPACE_GROUPS + 1)]


def _derive(number: int, hall: int) -> SpaceGroupInfo:
    import numpy as np
    import spglib
    from pymatgen.symmetry.groups import SpaceGroup
    from pyxtal.symmetry import Group

    kind = spglib.get_spacegroup_type(hall)
    operations = spglib.get_symmetry_from_database(hall)
    if kind is None or operations is None:
        raise RuntimeError(f"spglib does not know Hall number {hall}")
    system: str = SpaceGroup.from_int_number(number).crystal_system
    if system == "trigonal":
        system += "-rhombohedral" if kind.international_short.startswith("R") else "-hexagonal"
    positions = [(int(p.multiplicity), int(p.get_dof())) for p in Group(number)]
    free = {multiplicity for multiplicity, freedom in positions if freedom > 0}
    return SpaceGroupInfo(
        number=number,
        symbol=kind.international_short,
        crystal_lattice_system=system,
        point_symmetry=_point_symmetry(np.asarray(operations["rotations"])),
        point_group=kind.pointgroup_international,
        # If a free position has the same multiplicity, a fixed position is not needed: free positions are unlimited.
        fixed_multiplicities=tuple(sorted(m for m, freedom in positions if freedom == 0 and m not in free)),
        free_multiplicities=tuple(sorted(free)),
    )


def _point_symmetry(rotations: Any) -> str:
    """Class of a point group from the rotation parts of its operations, (m, 3, 3) integers."""
    import numpy as np

    centrosymmetric = bool((rotations == -np.eye(3, dtype=int)).all(axis=(1, 2)).any())
    enantiomorphic = bool((np.linalg.det(rotations) > 0).all())
    # The average over all operations projects onto the vectors that no operation changes: the polar directions.
    polar = np.linalg.matrix_rank(rotations.mean(axis=0), tol=1e-6) > 0
    if centrosymmetric:
        return "centrosymmetric"
    if enantiomorphic:
        return "enantiomorphic-polar" if polar else "enantiomorphic"
    return "polar" if polar else "non-centrosymmetric"


def _cache_path() -> Path:
    # The result depends also on pymatgen (crystal systems) and on crystalgfn (the derivation).
    return cache_path(f"space_groups_v{_CACHE_FORMAT}", ".json", "spglib", "pyxtal", "pymatgen", "crystalgfn")


def _read(path: Path) -> tuple[SpaceGroupInfo, ...]:
    """Read the space groups from the cache.

    Raises:
        ValueError: if the file contains something else. If it is missing or damaged, there are other errors.
    """
    groups = tuple(_from_json(row) for row in json.loads(path.read_text()))
    if [group.number for group in groups] != list(range(1, N_SPACE_GROUPS + 1)):
        raise ValueError(f"{path} does not hold all space groups in order")
    return groups


def _from_json(row: dict[str, Any]) -> SpaceGroupInfo:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    return SpaceGroupInfo(**values)


def _write(path: Path, groups: Sequence[SpaceGroupInfo]) -> None:
    path.write_text(json.dumps([asdict(group) for group in groups]))
