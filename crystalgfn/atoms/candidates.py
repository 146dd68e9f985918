"""Many arrangements of one crystal's atoms at once, with the symmetry built in.

All arrangements of a crystal have the same number of atoms in the primitive cell, so a batch is one set of arrays. The
free coordinates of an arrangement are its *parameters*: for each orbit a point u, from which all atoms of the orbit
follow. Forces on atoms become forces on parameters by the chain rule, so symmetry is never lost.
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
"""Two atoms touch at this share of the sum of their covalent radii."""

ANION_CONTACT = 1.7
"""Two anions beside a metal touch at this share: oxygen atoms of oxides are 2.2 Å and more apart."""

PUSHES = 40
"""Steps that drive overlapping atoms apart."""

PUSH_LENGTH = 0.12
"""Length of the first of them [Å]; the last is a tenth as long."""

CHUNK = 4_000_000
"""Distances computed at once, to bound memory."""


@dataclass(frozen=True)
class Candidates:
    """n arrangements of N atoms in the primitive cell.

    Attributes:
        number: space group in which they are arranged.
        species: (N,) atomic numbers.
        lattice: (n, 3, 3) vectors of the primitive cell as rows [Å].
        lengths: (n, 3) lengths of the conventional axes [Å], the scale of the parameters.
        rotations: (n, N, 3, 3) and
        translations: (n, N, 3): atom j lies at ``rotations @ u + translations`` in fractional coordinates of the
            primitive cell, for the point u of its orbit.
        orbit: (n, N) int64, index of each atom's orbit.
        points: (n, O, 3) points u, fractional coordinates of the conventional cell; O is the largest number of orbits.
        ways: the way of each arrangement, for people: positions of each orbit.
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

    def __getitem__(self, rows: Sequence[int] | NDArray[Any]) -> Candidates:
        index = np.asarray(rows, dtype=np.int64)
        return Candidates(
            self.number, self.species, self.lattice[index], self.lengths[index], self.rotations[index],
            self.translations[index], self.orbit[index], self.points[index], tuple(self.ways[i] for i in index),
        )  # fmt: skip

    @staticmethod
    def cat(parts: Sequence[Candidates]) -> Candidates:
        """Several batches of one crystal as one."""
        most = max(part.points.shape[1] for part in parts)
        return Candidates(
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

    def at(self, points: Array) -> Candidates:
        """The same arrangements at other points (n, O, 3)."""
        return Candidates(
            self.number, self.species, self.lattice, self.lengths, self.rotations, self.translations, self.orbit,
            points, self.ways,
        )  # fmt: skip

    def fractional(self) -> Array:
        """(n, N, 3) fractional coordinates of the primitive cell."""
        points = np.take_along_axis(self.points, self.orbit[:, :, None], axis=1)
        return np.einsum("bnij,bnj->bni", self.rotations, points) + self.translations

    def gradient(self, forces: Array) -> Array:
        """Derivative of the energy by the parameters.

        Args:
            forces: (n, N, 3) Cartesian forces on the atoms [eV/Å].

        Returns:
            (n, O, 3) derivative by the points u, in eV.
        """
        by_fractional = -np.einsum("bnc,bkc->bnk", forces, self.lattice)
        by_atom = np.einsum("bnij,bni->bnj", self.rotations, by_fractional)
        gradient = np.zeros_like(self.points)
        rows = np.arange(len(self))[:, None]
        np.add.at(gradient, (rows, self.orbit), by_atom)
        return gradient

    def structures(self) -> list[Structure]:
        """Primitive cells as pymatgen structures."""
        from pymatgen.core import Lattice, Structure

        fractional = self.fractional()
        return [
            Structure(Lattice(cell), self.species.tolist(), coordinates % 1.0)
            for cell, coordinates in zip(self.lattice, fractional, strict=True)
        ]


def propose(
    number: int, counts: Mapping[str, int], pairs: Sequence[tuple[Way, Array]], random: np.random.Generator
) -> Candidates:
    """Random arrangements, overlapping atoms driven apart.

    Args:
        number: space group.
        counts: atoms of each element in the conventional cell.
        pairs: for each arrangement its way and its conventional cell in the standard setting, (3, 3) [Å].
        random: the generator.
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
    candidates = Candidates(
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
    # Half of them with anions kept apart, as in most compounds; the others may form bonds such as S-S or C-C.
    apart = random.random(len(candidates)) < 0.5
    return _push(candidates, apart)


def _padded(points: Array, most: int) -> Array:
    """Points (n, O, 3) with zeros up to ``most`` orbits."""
    return np.pad(points, ((0, 0), (0, most - points.shape[1]), (0, 0)))


def _random(number: int, counts: Mapping[str, int], way: Way, cell: Array, random: np.random.Generator) -> Any:
    """Maps of the atoms, their orbits, and random points, for one way; atoms in the order of the elements."""
    group = positions(number)
    inverse = np.linalg.inv(CENTRINGS[centring(number)])
    rotations, translations, orbit = [], [], []
    for index, (_, position) in enumerate(way.orbits):
        entry = group[position]
        # x_primitive = x_conventional @ inverse, and x is a column vector in rotations @ u.
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
    """Distances at which atoms touch.

    Args:
        species: (N,) atomic numbers.
        apart: whether anions keep away from each other; without a metal in the crystal they never do.

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
    """Integer vectors (m, 3) of the images that can come within ``reach`` [Å] of an atom at most half a cell away."""
    heights = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)  # distances of lattice planes
    most = np.minimum(np.floor(reach / heights + 0.5).astype(int), 4)
    axes = [np.arange(-m, m + 1) for m in most]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3).astype(float)


def _push(candidates: Candidates, apart: NDArray[np.bool_]) -> Candidates:
    """Drive overlapping atoms apart along the free coordinates, by steps of falling length."""
    points = candidates.points.copy()
    for flag in (False, True):
        touch = contacts(candidates.species, flag)
        # Each cell shape on its own: it decides how many images can overlap.
        for rows in _equal_cells(candidates.lattice, np.flatnonzero(apart == flag)):
            images = _images(candidates.lattice[rows[0]], float(touch.max()))
            size = max(1, 2 * CHUNK // (len(candidates.species) ** 2 * len(images)))
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                points[part] = _push_block(candidates[part], touch, images)
    return candidates.at(points)


def _equal_cells(lattice: Array, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows in sets with the same lattice."""
    if not len(rows):
        return []
    _, kind = np.unique(lattice[rows].round(6).reshape(len(rows), 9), axis=0, return_inverse=True)
    return [rows[kind.reshape(-1) == value] for value in range(kind.max() + 1)]


def _push_block(block: Candidates, touch: Array, images: Array) -> Array:
    """Points (n, O, 3) after pushing n arrangements in the same cell; those without overlap stay."""
    points = block.points.copy()
    active = np.arange(len(block))
    first, second = np.triu_indices(len(block.species), 1)  # an atom and its own images move together
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
    candidates: Candidates, touch: Array, images: Array, first: NDArray[np.int64], second: NDArray[np.int64]
) -> Array:
    """Forces of the overlap energy, the sum over pairs and images of (1 - d / touch)^2 for d < touch.

    Args:
        candidates: n arrangements of N atoms in one cell.
        touch: (p,) distances at which the pairs touch [Å].
        images: (m, 3) vectors of the lattice to look at.
        first: (p,) and
        second: (p,) the atoms of each pair.

    Returns:
        (n, N, 3) forces [1/Å].
    """
    cell = candidates.lattice[0].astype(np.float32)
    fractional = candidates.fractional()
    difference = fractional[:, first] - fractional[:, second]
    difference -= difference.round()
    # Distances from |x + t|^2 = |x|^2 + 2 x.t + |t|^2: one product of matrices for all images.
    vectors, shifts = difference.astype(np.float32) @ cell, images.astype(np.float32) @ cell
    square = (vectors**2).sum(-1)[:, :, None] + 2 * vectors @ shifts.T + (shifts**2).sum(-1)
    close = np.nonzero(square < (touch.astype(np.float32) ** 2)[:, None])
    row, pair, image = close
    vector = vectors[row, pair] + shifts[image]
    distance = np.maximum(np.sqrt((vector**2).sum(-1)), 1e-3)
    strength = 2 * (1 - distance / touch[pair]) / (touch[pair] * distance)
    push = np.maximum(strength, 0.0)[:, None] * vector
    forces = np.zeros((len(candidates), len(candidates.species), 3))
    np.add.at(forces, (row, first[pair]), push)
    np.add.at(forces, (row, second[pair]), -push)
    return forces


def distance_ratios(structures: Sequence[Structure]) -> tuple[Array, Array]:
    """How close the closest atoms are.

    Args:
        structures: n ordered structures.

    Returns:
        (n,) smallest ratio of a distance to the sum of covalent radii, and (n,) smallest distance [Å]; both infinite
        where no atom has another within 6 Å.
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
    """How many atoms surround each other, as CHGNet's graph of angles sees it.

    Args:
        structures: n ordered structures.

    Returns:
        (n,) ordered pairs of neighbours within 3 Å, mean over the atoms; CHGNet's time grows with them.
    """
    values = np.zeros(len(structures))
    for index, structure in enumerate(structures):
        centre, *_ = structure.get_neighbor_list(3.0)
        neighbours = np.bincount(centre, minlength=len(structure))
        values[index] = (neighbours * (neighbours - 1)).mean()
    return values
