"""The space of cells in given ranges of the lattice parameters, and the numbers of atoms that it has room for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from crystalgfn.crystal.crystallography import CRYSTAL_LATTICE_SYSTEMS
from crystalgfn.crystal.crystallography.cells import SHAPES
from crystalgfn.crystal.crystals import ANGLES, LENGTHS
from crystalgfn.crystal.envs import cell_shape
from crystalgfn.random import generator

FREE = {
    system: (
        *(name for name, angle in zip(ANGLES, angles, strict=True) if not angle),
        *(name for i, name in enumerate(LENGTHS) if first[i] == i),
    )
    for system in CRYSTAL_LATTICE_SYSTEMS
    for _, first, angles in [SHAPES[system.partition("-")[0]]]
}
"""Free parameters of the conventional cell of each crystal-lattice system, angles first."""

LEAST_OVERLAP = 1e-6
"""Least overlap, in log volume, of the allowed volumes of a number of atoms with the volumes of the cells."""

_DRAWS = 20_000
"""Number of random cells from which a share is estimated."""


def fixed_angles(system: str) -> dict[str, float]:
    """Angles [degrees] that the crystal-lattice system prescribes."""
    angles = SHAPES[system.partition("-")[0]][2]
    return {name: angle for name, angle in zip(ANGLES, angles, strict=True) if angle}


def edge_powers(system: str) -> tuple[float, float, float]:
    """Powers of the free lengths a, b, c in the volume, such as a^3 in cubic cells and a^2 c in tetragonal cells."""
    free = FREE[system]
    tied = [name for name in LENGTHS if name not in free]
    return (1.0 + len(tied), 1.0 if "b" in free else 0.0, 1.0 if "c" in free else 0.0)


class CellSpace:
    """The cells whose lattice parameters lie in given ranges.

    Attributes:
        ranges: lowest and highest value of each of a, b, c [Å], alpha, beta, gamma [degrees].
        shapes: shapes of triclinic cells; None if there are none.

    Args:
        ranges: as the attribute.
        margin: least distance of triclinic angles from those of a flat cell [degrees], see `cell_shape`.
    """

    def __init__(self, ranges: Mapping[str, tuple[float, float]], margin: float) -> None:
        self.ranges = {name: (float(low), float(high)) for name, (low, high) in ranges.items()}
        alpha, beta, gamma = (self.ranges[name] for name in ANGLES)
        self.shapes = cell_shape.triclinic_shapes((alpha, beta, gamma), float(margin))

    def _lengths(self, system: str) -> tuple[float, float] | None:
        """Least and largest product of the lengths [Å³]; None if lengths that must be equal cannot be."""
        least, largest = 1.0, 1.0
        for name, power in zip(LENGTHS, edge_powers(system), strict=True):
            # A free length, and the lengths that are equal to it.
            names = [name] if name != "a" else ["a", *(n for n in LENGTHS if n not in FREE[system])]
            low, high = max(self.ranges[n][0] for n in names), min(self.ranges[n][1] for n in names)
            if low >= high:
                return None
            least, largest = least * low**power, largest * high**power
        return least, largest

    def _unit_volumes(self, system: str) -> tuple[float, float] | None:
        """Least and largest volume of cells with edges of length 1; None if the angles are not in the ranges."""
        if any(not self.ranges[n][0] <= angle <= self.ranges[n][1] for n, angle in fixed_angles(system).items()):
            return None
        if system == "triclinic":
            return None if self.shapes is None else self.shapes.volumes
        low, high = self.ranges["beta"] if system == "monoclinic" else (90.0, 90.0)
        base = torch.full((3, 3), 90.0, dtype=torch.float64)
        base[:, 1] = torch.tensor([low, high, min(max(90.0, low), high)], dtype=torch.float64)
        base[:, 2] = fixed_angles(system)["gamma"]
        volumes = cell_shape.unit_volume(base)
        return float(volumes.min()), float(volumes.max())

    def volumes(self, system: str) -> tuple[tuple[float, float], tuple[float, float]] | None:
        """Volumes [Å³] of the cells of one crystal-lattice system; None if no such cell is in the ranges.

        Args:
            system: crystal-lattice system.

        Returns:
            two pairs, for the smallest and for the largest lengths. Each pair gives the volume of the shape with the
            least volume and of the shape with the largest volume. Lengths that must be equal lie in the ranges of all
            their axes.
        """
        lengths, shapes = self._lengths(system), self._unit_volumes(system)
        if lengths is None or shapes is None:
            return None
        return (lengths[0] * shapes[0], lengths[0] * shapes[1]), (lengths[1] * shapes[0], lengths[1] * shapes[1])

    def lengths_by_system(self) -> Tensor:
        """(3, systems, 4) float64, bounds on each of a, b, c in each crystal-lattice system.

        The columns are the logarithms of the lowest and the highest value of the length (and of the lengths that are
        equal to it), then the least and the largest contribution of the later lengths to the logarithm of the volume.
        """
        ends = torch.tensor([self.ranges[name] for name in LENGTHS], dtype=torch.float64).log()
        rows = []
        for axis in range(3):
            for system in CRYSTAL_LATTICE_SYSTEMS:
                powers = torch.tensor(edge_powers(system), dtype=torch.float64)
                own = [axis] if axis else [0, *(i for i in (1, 2) if powers[i] == 0)]
                later = (powers[axis + 1 :].unsqueeze(1) * ends[axis + 1 :]).sum(0)
                rows.append(torch.stack([ends[own, 0].amax(), ends[own, 1].amin(), *later]))
        return torch.stack(rows).view(3, len(CRYSTAL_LATTICE_SYSTEMS), 4)

    def _any_upper_bound(self, system: str) -> bool:
        """Whether an upper bound on the volume leaves one interval of each angle, whatever the bound."""
        beta = self.ranges["beta"]
        return system != "triclinic" and (system != "monoclinic" or not beta[0] < 90 < beta[1])

    def bounded_angles(self, volumes: Mapping[str, tuple[float, float]]) -> frozenset[str]:
        """Angles whose intervals depend on bounds on the volume.

        Args:
            volumes: the strictest bounds [Å³] of each crystal-lattice system: highest lower and lowest upper bound.
        """
        names = set[str]()
        for system, (low, high) in volumes.items():
            own = self.volumes(system)
            if own is not None and (low > own[1][0] or high < own[0][1]):
                names |= set(FREE[system]) & set(ANGLES)
        return frozenset(names)

    def atom_bounds(
        self, system: str, volume_per_atom: tuple[float, float] | None, complete: bool = False
    ) -> tuple[int, float] | None:
        """Least and largest number of atoms for which some cells have an allowed volume.

        A small number of atoms for which only flat cells are small enough is left out, unless each angle still has one
        interval (see `cell_shape`). A large number for which only upright cells are large enough is not.

        Args:
            system: crystal-lattice system.
            volume_per_atom: least and largest volume per atom [Å³], or None for no bound.
            complete: whether to leave out nothing.

        Returns:
            the bounds, or None if no cell of this system is in the ranges.
        """
        volumes = self.volumes(system)
        if volumes is None:
            return None
        if volume_per_atom is None:
            return 1, float("inf")
        (flat_least, upright_least), (_, largest) = volumes
        least = flat_least if complete or self._any_upper_bound(system) else upright_least
        low = least * math.exp(LEAST_OVERLAP) / volume_per_atom[1]
        high = largest / math.exp(LEAST_OVERLAP) / volume_per_atom[0]
        return max(1, int(-(-low // 1))), float(int(high))

    def share(
        self, system: str, volume_per_atom: tuple[float, float], some: Iterable[int], every: Sequence[int]
    ) -> float:
        """Share of some numbers of atoms in the cells of one crystal-lattice system that have an allowed volume.

        Lattice parameters are uniform in their ranges, and each number of atoms counts the same. Estimated from
        random cells, which are the same in each call.

        Args:
            system: crystal-lattice system of which there are cells.
            volume_per_atom: least and largest volume per atom [Å³].
            some: numbers of atoms.
            every: all numbers of atoms, with these among them.
        """
        stream = generator("share of cells", system)
        cells = torch.empty(_DRAWS, 6, dtype=torch.float64).uniform_(generator=stream)
        for i, name in enumerate((*LENGTHS, *ANGLES)):
            low, high = self.ranges[name]
            cells[:, i] = (
                low + (high - low) * cells[:, i] if name in FREE[system] else fixed_angles(system).get(name, 1)
            )
        volumes = cell_shape.unit_volume(cells[:, 3:])
        for i, power in enumerate(edge_powers(system)):
            volumes = volumes * cells[:, i] ** power
        if system == "triclinic":
            assert self.shapes is not None
            volumes = volumes[self.shapes.contains(cells[:, 3:])]
        low, high = volume_per_atom
        fitting = {n: int(((volumes >= low * n) & (volumes <= high * n)).sum()) for n in every}
        return sum(fitting[n] for n in some) / max(sum(fitting.values()), 1)
