"""Batches of arrangements of one crystal's atoms. Every arrangement keeps the symmetry of the space group.

All arrangements of a crystal have the same number of atoms in the primitive cell, so one set of arrays holds a batch.
The *parameters* of an arrangement are its free coordinates: one point u for each orbit, which determines the positions
of all atoms of the orbit. Forces on atoms are converted to forces on the parameters by the chain rule. Changes of the
parameters therefore keep the symmetry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalgfn.crystal.crystallography.positions import CENTRINGS, Way, centring, positions

if TYPE_CHECKING:
    from pymatgen.core import Structure

Array = NDArray[np.float64]

CONTACT = 0.85
"""Two atoms touch if their distance is this fraction of the sum of their covalent radii."""

ANION_CONTACT = 1.7
"""The same fraction for two anions in a crystal with a metal: oxygen atoms of oxides are at least 2.2 Å apart."""

PUSHES = 40
"""Number of steps that move overlapping atoms apart."""

PUSH_LENGTH = 0.12
"""Largest move of a point in the first of these steps [Å]. In the last step it is about a tenth of this."""

CHUNK = 4_000_000
"""Number of distances computed at once; it limits the memory used."""


@dataclass(frozen=True)
class Arrangements:
    """n arrangements of N atoms in the primitive cell.

    Attributes:
        number: number of the space group.
        species: (N,) atomic numbers.
        lattice: (n, 3, 3) vectors of the primitive cell as rows [Å].
        lengths: (n, 3) lengths of the conventional axes [Å], which convert parameters to Å.
        rotations: (n, N, 3, 3) matrix of each atom, see ``translations``.
        translations: (n, N, 3) vector of each atom. The atom lies at ``rotations @ u + translations`` in fractional
            coordinates of the primitive cell, for the point u of its orbit.
        orbit: (n, N) int64, index of each atom's orbit.
        points: (n, O, 3) points u, fractional coordinates of the conventional cell; O is the largest number of orbits.
        ways: text for each arrangement: element and Wyckoff position of each orbit.
    """

    number: int
    species: NDArray[np.int64]
    lattice: Array
    lengths: Array
    rotations: Array
    translations: Array
    orbit: NDArray[np.int64]
    points: Array
    ways: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.lattice)

    def __getitem__(self, rows: Sequence[int] | NDArray[Any]) -> Arrangements:
        index = np.asarray(rows, dtype=np.int64)
        return Arrangements(
            self.number, self.species, self.lattice[index], self.lengths[index], self.rotations[index],
            self.translations[index], self.orbit[index], self.points[index], tuple(self.ways[i] for i in index),
        )  # fmt: skip

    @staticmethod
    def cat(parts: Sequence[Arrangements]) -> Arrangements:
        """Join several batches of the same crystal."""
        most = max(part.points.shape[1] for part in parts)
        return Arrangements(
            parts[0].number,
            parts[0].species,
            np.concatenate([part.lattice for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.rotations for part in parts]),
            np.concatenate([part.translations for part in parts]),
            np.concatenate([part.orbit for part in parts]),
            np.concatenate([_padded(part.points, most) for part in parts]),
            tuple(way for part in parts for way in part.ways),
        )

    def at(self, points: Array) -> Arrangements:
        """A copy of the batch with other points (n, O, 3)."""
        return Arrangements(
            self.number, self.species, self.lattice, self.lengths, self.rotations, self.translations, self.orbit,
            points, self.ways,
        )  # fmt: skip

    def fractional(self) -> Array:
        """(n, N, 3) fractional coordinates of the atoms in the primitive cell."""
        points = np.take_along_axis(self.points, self.orbit[:, :, None], axis=1)
        return np.einsum("bnij,bnj->bni", self.rotations, points) + self.translations

    def gradient(self, forces: Array) -> Array:
        """Derivative of the energy with respect to the parameters.

        Args:
            forces: (n, N, 3) Cartesian forces on the atoms [eV/Å].

        Returns:
            (n, O, 3) derivative with respect to the points u [eV].
        """
        by_fractional = -np.einsum("bnc,bkc->bnk", forces, self.lattice)
        by_atom = np.einsum("bnij,bni->bnj", self.rotations, by_fractional)
        gradient = np.zeros_like(self.points)
        rows = np.arange(len(self))[:, None]
        np.add.at(gradient, (rows, self.orbit), by_atom)
        return gradient

    def structures(self) -> list[Structure]:
        """The n primitive cells as pymatgen structures."""
        from pymatgen.core import Lattice, Structure

        fractional = self.fractional()
        return [
            Structure(Lattice(cell), self.species.tolist(), coordinates % 1.0)
            for cell, coordinates in zip(self.lattice, fractional, strict=True)
        ]


def propose(
    number: int, counts: Mapping[str, int], pairs: Sequence[tuple[Way, Array]], random: np.random.Generator
) -> Arrangements:
    """Make random arrangements and move overlapping atoms apart.

    Args:
        number: number of the space group.
        counts: atoms of each element in the conventional cell.
        pairs: for each arrangement, its assignment of the atoms to Wyckoff positions and its conventional cell in the
            standard setting, (3, 3) [Å].
        random: random number generator.

    Returns:
        one arrangement for each pair.
    """
    made = [_random(number, counts, way, cell, random) for way, cell in pairs]
    most = max(len(points) for *_, points in made)
    points = np.concatenate([_padded(points[None], most) for *_, points in made])
    to_primitive = CENTRINGS[centring(number)]
    conventional = np.stack([cell for _, cell in pairs])
    from pymatgen.core import Element

    sizes = [Element(symbol).Z for symbol in counts]
    share = round(1 / abs(np.linalg.det(to_primitive)))
    species = np.repeat(sizes, [count // share for count in counts.values()])
    arrangements = Arrangements(
        number,
        species,
        to_primitive @ conventional,
        np.linalg.norm(conventional, axis=2),
        np.stack([rotations for rotations, *_ in made]),
        np.stack([translations for _, translations, *_ in made]),
        np.stack([orbit for *_, orbit, _ in made]),
        points,
        tuple(_label(number, counts, way) for way, _ in pairs),
    )
    # In about half of the arrangements anions are kept apart, as in most compounds. In the others they may form bonds
    # such as S-S or C-C.
    apart = random.random(len(arrangements)) < 0.5
    return _push(arrangements, apart)


def _padded(points: Array, most: int) -> Array:
    """Points (n, O, 3), padded with zeros to ``most`` orbits."""
    return np.pad(points, ((0, 0), (0, most - points.shape[1]), (0, 0)))


def _random(number: int, counts: Mapping[str, int], way: Way, cell: Array, random: np.random.Generator) -> Any:
    """Rotations, translations and orbits of the atoms (in the order of the elements) and random points, for one way."""
    group = positions(number)
    inverse = np.linalg.inv(CENTRINGS[centring(number)])
    rotations, translations, orbit = [], [], []
    for index, (_, position) in enumerate(way.orbits):
        entry = group[position]
        # Row vectors are converted by x_primitive = x_conventional @ inverse; rotations @ u is a column vector.
        rotations.append(inverse.T @ entry.rotations)
        translations.append(entry.translations @ inverse)
        orbit.append(np.full(len(entry.rotations), index))
    return (
        np.concatenate(rotations),
        np.concatenate(translations),
        np.concatenate(orbit),
        random.random((len(way.orbits), 3)),
    )


def _label(number: int, counts: Mapping[str, int], way: Way) -> str:
    symbols, group = list(counts), positions(number)
    return " ".join(f"{symbols[element]}:{group[position].label}" for element, position in way.orbits)


@cache
def covalent_radii() -> Array:
    """(119,) covalent radii [Å] by atomic number, from ase (Cordero et al., Dalton Trans. 2008, 2832)."""
    from ase.data import covalent_radii as table

    return np.array(table, dtype=np.float64)


def contacts(species: NDArray[np.int64], apart: bool) -> Array:
    """Distances at which two atoms touch.

    Args:
        species: (N,) atomic numbers.
        apart: whether anions are kept apart (`ANION_CONTACT`). This has no effect in a crystal without a metal.

    Returns:
        (N, N) distances [Å].
    """
    from pymatgen.core import Element

    radii = covalent_radii()[species]
    touch = CONTACT * (radii[:, None] + radii)
    elements = {z: Element.from_Z(int(z)) for z in set(species.tolist())}
    if apart and any(element.is_metal for element in elements.values()):
        anion = np.array([not elements[z].is_metal and elements[z].X > 2.1 for z in species.tolist()])
        both = anion[:, None] & anion
        touch = np.where(both, ANION_CONTACT / CONTACT * touch, touch)
    return touch


def _images(lattice: Array, reach: float) -> Array:
    """Integer vectors (m, 3) of the images of an atom, at most half a cell away, that can come within ``reach`` [Å]."""
    heights = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)  # distances between lattice planes
    most = np.minimum(np.floor(reach / heights + 0.5).astype(int), 4)
    axes = [np.arange(-m, m + 1) for m in most]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3).astype(float)


def _push(arrangements: Arrangements, apart: NDArray[np.bool_]) -> Arrangements:
    """Move overlapping atoms apart along the free coordinates, in steps that become shorter."""
    points = arrangements.points.copy()
    for flag in (False, True):
        touch = contacts(arrangements.species, flag)
        # Each cell shape is treated separately because it determines how many images can overlap.
        for rows in _equal_cells(arrangements.lattice, np.flatnonzero(apart == flag)):
            images = _images(arrangements.lattice[rows[0]], float(touch.max()))
            size = max(1, 2 * CHUNK // (len(arrangements.species) ** 2 * len(images)))
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                points[part] = _push_block(arrangements[part], touch, images)
    return arrangements.at(points)


def _equal_cells(lattice: Array, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Groups of rows that have the same lattice."""
    if not len(rows):
        return []
    _, kind = np.unique(lattice[rows].round(6).reshape(len(rows), 9), axis=0, return_inverse=True)
    return [rows[kind.reshape(-1) == value] for value in range(kind.max() + 1)]


def _push_block(block: Arrangements, touch: Array, images: Array) -> Array:
    """Points (n, O, 3) after moving atoms apart in n arrangements with the same cell; only overlapping atoms move."""
    points = block.points.copy()
    active = np.arange(len(block))
    first, second = np.triu_indices(len(block.species), 1)  # the distance of an atom to its own images is fixed
    if not len(first):
        return points
    scale = block.lengths[0]
    for step in range(PUSHES):
        moving = block[active].at(points[active])
        forces = _overlap_forces(moving, touch[first, second], images, first, second)
        active = active[forces.any(axis=(1, 2))]
        if not len(active):
            break
        keep = forces.any(axis=(1, 2))
        downhill = -moving.gradient(forces)[keep] / scale
        norm = np.linalg.norm(downhill, axis=2, keepdims=True)
        length = PUSH_LENGTH * (1 - 0.9 * step / PUSHES)
        points[active] += downhill / np.maximum(norm, 1e-12) * np.minimum(norm, 1.0) * length / scale
    return points


def _overlap_forces(
    arrangements: Arrangements, touch: Array, images: Array, first: NDArray[np.int64], second: NDArray[np.int64]
) -> Array:
    """Forces of the overlap energy, the sum over pairs and images of (1 - d / touch)^2 for d < touch.

    Args:
        arrangements: n arrangements of N atoms in one cell.
        touch: (p,) distances at which the pairs touch [Å].
        images: (m, 3) integer lattice vectors of the images to include.
        first: (p,) index of the first atom of each pair.
        second: (p,) index of the second atom of each pair.

    Returns:
        (n, N, 3) forces [1/Å].
    """
    cell = arrangements.lattice[0].astype(np.float32)
    fractional = arrangements.fractional()
    difference = fractional[:, first] - fractional[:, second]
    difference -= difference.round()
    # With |x + t|^2 = |x|^2 + 2 x.t + |t|^2, one matrix product gives the distances to all images.
    vectors, shifts = difference.astype(np.float32) @ cell, images.astype(np.float32) @ cell
    square = (vectors**2).sum(-1)[:, :, None] + 2 * vectors @ shifts.T + (shifts**2).sum(-1)
    close = np.nonzero(square < (touch.astype(np.float32) ** 2)[:, None])
    row, pair, image = close
    vector = vectors[row, pair] + shifts[image]
    distance = np.maximum(np.sqrt((vector**2).sum(-1)), 1e-3)
    strength = 2 * (1 - distance / touch[pair]) / (touch[pair] * distance)
    push = np.maximum(strength, 0.0)[:, None] * vector
    forces = np.zeros((len(arrangements), len(arrangements.species), 3))
    np.add.at(forces, (row, first[pair]), push)
    np.add.at(forces, (row, second[pair]), -push)
    return forces


def distance_ratios(structures: Sequence[Structure]) -> tuple[Array, Array]:
    """Smallest distance between atoms in each structure.

    Args:
        structures: n ordered structures.

    Returns:
        (n,) smallest ratio of a distance to the sum of the covalent radii, and (n,) smallest distance [Å]. Both are
        infinite if no two atoms are within 6 Å of each other.
    """
    radii = covalent_radii()
    ratios, shortest = np.full(len(structures), np.inf), np.full(len(structures), np.inf)
    for index, structure in enumerate(structures):
        centre, other, _, distance = structure.get_neighbor_list(6.0)
        if len(distance):
            numbers = np.array(structure.atomic_numbers)
            ratios[index] = (distance / (radii[numbers[centre]] + radii[numbers[other]])).min()
            shortest[index] = distance.min()
    return ratios, shortest


def crowding(structures: Sequence[Structure]) -> Array:
    """Number of pairs of neighbours of an atom, as CHGNet counts them for its graph of angles.

    Args:
        structures: n ordered structures.

    Returns:
        (n,) number of ordered pairs of neighbours within 3 Å, averaged over the atoms. CHGNet's computing time grows
        with this number.
    """
    values = np.zeros(len(structures))
    for index, structure in enumerate(structures):
        centre, *_ = structure.get_neighbor_list(3.0)
        neighbours = np.bincount(centre, minlength=len(structure))
        values[index] = (neighbours * (neighbours - 1)).mean()
    return values
