"""All facets of the hull of every chemical system, found by steps from facet to facet.

A facet of a system of m elements is a set of m phases. Its chemical potentials mu (m values) solve ``mu · c_i = e_i``
for these phases. The facet belongs to the hull if ``mu · c_i <= e_i`` for every other phase of the system.

The facets of a system triangulate its compositions, therefore all facets can be reached from one by steps over edges:
remove one phase, and follow the edge until the inequality of another phase becomes an equality (the phase is *tight*).
Hundreds of systems are processed at once. General programs for convex hulls are not used, because many phases lie on
the same vertical boundary, where an element is absent; such programs have difficulties with this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import numpy.typing as npt

from crystalgfn.errors import InputError
from crystalgfn.proxies.hull.phases import Floats, Integers, Phases

MAX_SYSTEMS = 30_000
"""Largest number of chemical systems that are enumerated; 22 elements, five at a time, make 26,334 systems."""

_PERTURBATION = 1e-11
"""Energies are shifted by up to this [eV/atom], so that no m + 1 phases are tight at the same time.

The chemical potentials are computed from the energies without this shift."""

_FAR = 1e5
"""An edge longer than this [eV] leads out of the system."""


@dataclass(frozen=True)
class SystemFacets:
    """Facets of every system of m elements.

    Attributes:
        phases: the reference phases.
        systems: (s, m) indices of the elements of each system, in colexicographic order.
        starts: (s + 1,) facets of system i are those from ``starts[i]`` to ``starts[i + 1]``.
        members: (f, m) indices of the phases of each facet.
        potentials: (f, m) chemical potentials [eV/atom] of the system's elements.
    """

    phases: Phases
    systems: Integers
    starts: Integers
    members: Integers
    potentials: Floats

    def __len__(self) -> int:
        return len(self.members)

    def system_of_facet(self) -> Integers:
        """(f,) the system that each facet belongs to."""
        return np.repeat(np.arange(len(self.systems)), np.diff(self.starts))

    def lookup(self, fractions: Floats) -> tuple[Floats, Integers]:
        """Energy of the hull, and the facet that gives it, for compositions of up to m elements.

        Args:
            fractions: (n, k) atomic fraction of each element; rows add up to 1.

        Returns:
            (n,) energy [eV/atom] and (n,) index of a facet.
        """
        size = self.systems.shape[1]
        system = _rank(np.sort(np.argsort(fractions <= 0, axis=1, kind="stable")[:, :size], axis=1))
        energy, facet = np.zeros(len(fractions)), np.zeros(len(fractions), dtype=np.int64)
        counts = np.diff(self.starts)
        # Rows with similar numbers of facets are processed together, so that little padding is needed.
        order = np.argsort(counts[system], kind="stable")
        for rows in np.array_split(order, len(order) // 1000 + 1):
            if len(rows) == 0:
                continue
            here = system[rows]
            place = np.arange(counts[here].max())
            index = self.starts[here][:, None] + np.minimum(place, counts[here][:, None] - 1)
            shares = np.take_along_axis(fractions[rows], self.systems[here], axis=1)
            values = np.einsum("nfm,nm->nf", self.potentials[index], shares)
            best = values.argmax(1)
            energy[rows] = values[np.arange(len(rows)), best]
            facet[rows] = index[np.arange(len(rows)), best]
        return energy, facet


def enumerate_facets(phases: Phases, max_elements: int) -> SystemFacets:
    """All facets of all systems with ``max_elements`` of the elements (or all elements, if there are fewer).

    Args:
        phases: the reference phases.
        max_elements: number of elements of a system.

    Raises:
        InputError: if there are more than `MAX_SYSTEMS` systems.
    """
    k = len(phases.elements)
    size = min(max_elements, k)
    if comb(k, size) > MAX_SYSTEMS:
        raise InputError(
            f"elements, max_elements: {k} elements have {comb(k, size):,} systems of {size}; allowed: up to "
            f"{MAX_SYSTEMS:,}. Give fewer elements or a lower max_elements"
        )
    # A phase is on the hull if it is on the hull of the system of its own elements. Systems are therefore processed
    # from small to large, and phases that are not on the hull are removed before the larger systems.
    kinds = (phases.fractions > 0).sum(1)
    shifted = phases.energies + np.random.default_rng(0).random(len(phases)) * _PERTURBATION
    keep = kinds == 1
    for m in range(1, size + 1):
        keep |= kinds == m
        index = np.flatnonzero(keep)
        parts = list(_walk(phases.fractions[index], shifted[index], m))
        on_hull = np.zeros(len(phases), dtype=bool)
        for _, members in parts:
            on_hull[index[members]] = True
        keep &= on_hull | (kinds < m)
    systems = systems_of(k, size)
    owner = np.concatenate([part[0] for part in parts])
    members = index[np.concatenate([part[1] for part in parts])]
    order = np.lexsort((*members.T[::-1], owner))
    owner, members = owner[order], members[order]
    starts = np.searchsorted(owner, np.arange(len(systems) + 1))
    potentials = np.zeros(members.shape)
    for rows in np.array_split(np.arange(len(members)), len(members) // 50_000 + 1):
        matrix = phases.fractions[members[rows][:, :, None], systems[owner[rows]][:, None, :]]
        potentials[rows] = np.linalg.solve(matrix, phases.energies[members[rows]][:, :, None])[:, :, 0]
    return SystemFacets(phases, systems, starts, members, potentials)


def systems_of(k: int, m: int) -> Integers:
    """(s, m) all combinations of m of k elements, in colexicographic order."""
    systems = np.array(list(combinations(range(k), m)), dtype=np.int64)
    return systems[np.argsort(_rank(systems))]


def _rank(systems: Integers) -> Integers:
    """(n,) colexicographic rank of (n, m) combinations, each in ascending order."""
    k, m = int(systems.max(initial=0)) + 1, systems.shape[1]
    table = np.array([[comb(i, j + 1) for j in range(m)] for i in range(k)], dtype=np.int64)
    return table[systems, np.arange(m)].sum(1)


def _walk(fractions: Floats, energies: Floats, m: int) -> Iterator[tuple[Integers, Integers]]:
    """All facets of all systems of m elements, for up to 256 systems at a time.

    Yields:
        (f,) systems and (f, m) phases of their facets.
    """
    systems = systems_of(fractions.shape[1], m)
    present = (fractions > 0).astype(np.float32)
    for start in range(0, len(systems), 256):
        chunk = systems[start : start + 256]
        foreign = np.ones((len(chunk), fractions.shape[1]), dtype=np.float32)
        np.put_along_axis(foreign, chunk, 0.0, axis=1)
        inside = foreign @ present.T == 0
        width = int(inside.sum(1).max())
        index = np.argsort(~inside, axis=1, kind="stable")[:, :width]
        real = np.take_along_axis(inside, index, axis=1)
        shares = np.where(real[:, :, None], fractions[index[:, :, None], chunk[:, None, :]], 0.0)
        height = np.where(real, energies[index], np.inf)
        row, basis = _explore(shares, height)
        yield row + start, np.take_along_axis(index[row], basis, axis=1)


def _explore(shares: Floats, energies: Floats) -> tuple[Integers, Integers]:
    """The facets of s systems with up to p phases of m elements.

    Args:
        shares: (s, p, m) atomic fractions of the elements in each phase; zero for places without a phase.
        energies: (s, p) energies, infinite for places without a phase.

    Returns:
        (f,) systems and (f, m) places of the phases of each facet.
    """
    row, basis = np.arange(len(shares)), _corner(shares, energies)
    seen = set(map(bytes, _keys(row, basis)))
    rows, bases = [row], [basis]
    while len(row):
        next_row, next_basis = [], []
        for part in np.array_split(np.arange(len(row)), len(row) * shares[0].size // 2_000_000 + 1):
            r, b = _neighbours(shares, energies, row[part], basis[part])
            next_row.append(r)
            next_basis.append(b)
        row, basis = np.concatenate(next_row), np.concatenate(next_basis)
        keys = _keys(row, basis)
        new = []
        for i, key in enumerate(map(bytes, keys)):
            if key not in seen:
                seen.add(key)
                new.append(i)
        row, basis = row[new], basis[new]
        rows.append(row)
        bases.append(basis)
    return np.concatenate(rows), np.concatenate(bases)


def _corner(shares: Floats, energies: Floats) -> Integers:
    """(s, m) one facet of each system: each element in turn takes the highest potential that the phases allow."""
    n, _, m = shares.shape
    potentials, basis = np.zeros((n, m)), np.zeros((n, m), dtype=np.int64)
    for j in range(m):
        bound = (shares[:, :, j] > 0) & (shares[:, :, j + 1 :] == 0).all(2)
        slack = energies - np.einsum("npj,nj->np", shares[:, :, :j], potentials[:, :j])
        limit = np.where(bound, slack / np.where(bound, shares[:, :, j], 1.0), np.inf)
        basis[:, j] = limit.argmin(1)
        potentials[:, j] = limit.min(1)
    return np.sort(basis, axis=1)


def _neighbours(shares: Floats, energies: Floats, row: Integers, basis: Integers) -> tuple[Integers, Integers]:
    """The facets that share m - 1 phases with each of f facets; edges on the boundary of the system have none."""
    here, height = shares[row], energies[row]
    inverse = np.linalg.inv(np.take_along_axis(here, basis[:, :, None], axis=1))
    potentials = np.einsum("fij,fj->fi", inverse, np.take_along_axis(height, basis, axis=1))
    slack = np.maximum(height - np.einsum("fpj,fj->fp", here, potentials), 0.0)
    # Along edge l the phase l of the facet gains slack at rate 1, and the other phases of the facet none.
    rate = -np.matmul(here, inverse)
    np.put_along_axis(rate, np.broadcast_to(basis[:, :, None], (*basis.shape, basis.shape[1])), 0.0, axis=1)
    rising = rate > 1e-10
    length = np.where(rising, slack[:, :, None] / np.where(rising, rate, 1.0), np.inf)
    entering = length.argmin(1)
    facet, leaving = (np.take_along_axis(length, entering[:, None, :], axis=1)[:, 0] < _FAR).nonzero()
    result = basis[facet]
    result[np.arange(len(facet)), leaving] = entering[facet, leaving]
    return row[facet], np.sort(result, axis=1)


def _keys(row: Integers, basis: Integers) -> npt.NDArray[np.void]:
    """One value for each facet; equal facets have equal values."""
    table = np.ascontiguousarray(np.concatenate([row[:, None], basis], axis=1).astype(np.int32))
    return table.view(np.dtype((np.void, table.dtype.itemsize * table.shape[1])))[:, 0]
