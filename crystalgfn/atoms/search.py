"""Find atomic positions for one crystal in the sampled cell, by comparing many arrangements with a potential.

1. Propose arrangements (`arrangements`) and drop those whose atoms are too close or too crowded.
2. Evaluate the energy of the others, and keep the `tries` different ones with the lowest energies.
3. Relax their free coordinates with the potential's forces, in batches. After the first stages only the better half is
   kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalgfn.atoms.arrangements import Arrangements, crowding, distance_ratios, propose
from crystalgfn.crystal.crystallography.positions import Way, settings, ways

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from crystalgfn.atoms.potentials import Potential

Array = NDArray[np.float64]

PROPOSALS = 24
"""Number of arrangements proposed for each one that is relaxed."""

BEST_PAIRS = 6
"""Number of pairs (assignment to Wyckoff positions, cell) from which the last round draws arrangements."""

MAX_WAYS = 200
"""Largest number of assignments of the atoms to Wyckoff positions that are considered."""

CLOSEST = 0.6
"""Potentials are not reliable if two atoms are closer than this fraction of the sum of their covalent radii. Of 3,000
real crystals, 153 of them with hydrogen, none has a shorter distance, and 0.2 % have a distance below 0.65."""

CROWDED = 320.0
"""Largest number of pairs of neighbours within 3 Å per atom, that of 18 neighbours. Of 3,000 real crystals none has
more than 306 pairs. Cells that are only one atom thick have more, and they would take ten times as long."""

STAGES = ((5, 0.5), (8, 0.5), (15, 0.0))
"""Steps of each stage of the relaxation, and the fraction of arrangements that is kept after it (at least `KEPT`)."""

KEPT = 2
"""Number of arrangements that remain after the last stage."""

SAME = 2e-4
"""Arrangements are considered equal if their energies differ by at most this [eV/atom]."""

CURVATURE = 70.0
"""Initial value of the second derivative of the energy [eV/Å²]; ase's default for BFGS."""

MAX_STEP = 0.2
"""Largest move of an atom in one step [Å]."""

FORCE = 0.05
"""An arrangement is relaxed if the largest force on its parameters is below this [eV/Å]."""


class NoStructure(Exception):
    """No atomic positions could be found for a crystal; the message is the reason."""


@dataclass(frozen=True)
class Found:
    """One arrangement.

    Attributes:
        structure: primitive cell.
        energy: the potential's energy, without corrections that it lacks [eV/atom].
        positions: element and Wyckoff position of each orbit.
    """

    structure: Structure
    energy: float
    positions: str


@dataclass(frozen=True)
class Search:
    """Result of the search for one crystal.

    Attributes:
        found: the best arrangements, lowest energy first.
        proposed: number of arrangements that were proposed.
        too_close: number of these with atoms that are too close or have too many neighbours.
        failed: number of these that the potential could not evaluate.
        tried: number of arrangements that were relaxed.
    """

    found: list[Found]
    proposed: int
    too_close: int
    failed: int
    tried: int


def search(
    potential: Potential,
    number: int,
    counts: Mapping[str, int],
    lattice: Array,
    tries: int,
    random: np.random.Generator,
) -> Search:
    """Find atomic positions for a crystal.

    Args:
        potential: the potential.
        number: number of the space group.
        counts: atoms of each element in the conventional cell.
        lattice: (6,) a, b, c [Å], alpha, beta, gamma [degrees] of the conventional standard cell.
        tries: number of arrangements that are relaxed.
        random: random number generator.

    Returns:
        the best arrangements, and how many were proposed, excluded and relaxed.

    Raises:
        NoStructure: if the potential does not know an element, if the composition or the cell does not fit the space
            group, or if no arrangement can be evaluated because atoms are too close, too crowded or without neighbours.
    """
    unknown = potential.unknown(counts)
    if unknown:
        raise NoStructure(f"{potential.name} does not know {', '.join(unknown)}")
    try:
        cells = settings(number, lattice)
    except ValueError as error:
        raise NoStructure(str(error)) from None
    choices = ways(number, counts, MAX_WAYS, random)
    if not choices:
        raise NoStructure(f"the composition does not fit the Wyckoff positions of space group {number}")
    pairs = [(way, cell) for way in choices for cell in cells]
    arrangements, energies, too_close, failed = sample(potential, number, counts, pairs, PROPOSALS * tries, random)
    proposed = len(arrangements) + too_close + failed
    if not len(arrangements):
        what = "atoms without neighbours" if failed else "atoms too close or too crowded"
        raise NoStructure(f"{what} in all of {proposed} arrangements")
    best = different(energies, tries)
    relaxed, values = descend(potential, arrangements[best], energies[best])
    # A potential may move atoms too close to each other, because its training data have no such short distances.
    values = np.where(are_apart(relaxed.structures()), values, np.inf)
    order = different(values, KEPT)
    if not len(order):
        raise NoStructure(f"{potential.name} moves atoms too close together in all of {len(best)} arrangements")
    shown = relaxed[order].structures()
    found = [
        Found(structure, float(values[i]), relaxed.ways[i]) for structure, i in zip(shown, order.tolist(), strict=True)
    ]
    return Search(found, proposed, too_close, failed, len(best))


def sample(
    potential: Potential,
    number: int,
    counts: Mapping[str, int],
    pairs: Sequence[tuple[Way, Array]],
    n: int,
    random: np.random.Generator,
) -> tuple[Arrangements, Array, int, int]:
    """Propose arrangements in rounds, and evaluate those whose atoms are not too close or too crowded.

    The first round uses each pair once; if there are too many pairs, it uses the first ones. The next rounds draw new
    points for the pairs that gave the lowest energies. A pair without free coordinates is used only once.

    Args:
        potential: the potential.
        number: number of the space group.
        counts: atoms of each element in the conventional cell.
        pairs: pairs of an assignment to Wyckoff positions and a conventional cell.
        n: largest number of arrangements to propose. If the pairs allow fewer arrangements, all of these are proposed.
        random: random number generator.

    Returns:
        the arrangements that could be evaluated, their energies [eV/atom], the number of arrangements with atoms too
        close or too crowded, and the number that the potential could not evaluate.
    """
    lowest = np.full(len(pairs), np.inf)
    parts: list[tuple[Arrangements, Array]] = []
    too_close = failed = 0
    chosen = list(range(min(len(pairs), n // 2)))
    free = np.array([way.freedom > 0 for way, _ in pairs])
    for best in (len(chosen) // 4, len(chosen) // 16, 0):
        if not chosen:
            break
        arrangements = propose(number, counts, [pairs[i] for i in chosen], random)
        structures = arrangements.structures()
        apart = are_apart(structures)
        energies = np.full(len(chosen), np.nan)
        energies[apart] = potential.energies_per_atom(
            [structure for structure, fine in zip(structures, apart, strict=True) if fine]
        )
        usable = np.isfinite(energies)
        too_close += int((~apart).sum())
        failed += int((apart & ~usable).sum())
        parts.append((arrangements[np.flatnonzero(usable)], energies[usable]))
        np.minimum.at(lowest, np.array(chosen)[usable], energies[usable])
        # Pairs that have not given a usable arrangement come last because their lowest energy is infinite.
        order = [i for i in np.argsort(lowest, kind="stable").tolist() if free[i] and i < n // 2][
            : max(best, BEST_PAIRS)
        ]
        left = n - sum(len(energies) for _, energies in parts) - too_close - failed
        share = left if best < BEST_PAIRS else left // 2
        chosen = [order[i % len(order)] for i in range(share)] if order else []
    filled = [part for part in parts if len(part[0])]
    if not filled:
        return parts[0][0], parts[0][1], too_close, failed
    return Arrangements.cat([a for a, _ in filled]), np.concatenate([e for _, e in filled]), too_close, failed


def are_apart(structures: Sequence[Structure]) -> NDArray[np.bool_]:
    """(n,) True where the atoms are neither too close nor too crowded, see `CLOSEST` and `CROWDED`."""
    return (distance_ratios(structures)[0] >= CLOSEST) & (crowding(structures) <= CROWDED)


def different(energies: Array, most: int) -> NDArray[np.int64]:
    """Choose arrangements with low and different energies.

    Args:
        energies: (n,) energies [eV/atom].
        most: largest number of arrangements.

    Returns:
        (k,) indices, lowest energy first. Of arrangements whose energies differ by at most `SAME`, one is chosen.
    """
    chosen: list[int] = []
    for index in np.argsort(energies, kind="stable").tolist():
        if len(chosen) == most or not np.isfinite(energies[index]):
            break
        if not chosen or energies[index] - energies[chosen[-1]] > SAME:
            chosen.append(index)
    return np.array(chosen, dtype=np.int64)


def descend(potential: Potential, arrangements: Arrangements, energies: Array) -> tuple[Arrangements, Array]:
    """Relax the free coordinates in a fixed cell.

    The method is BFGS in the parameters. Each arrangement has its own matrix of second derivatives; the potential
    evaluates all arrangements together.

    Args:
        potential: the potential.
        arrangements: n arrangements.
        energies: (n,) their energies [eV/atom].

    Returns:
        the arrangements at the points of lowest energy that were found, and their n energies [eV/atom].
    """
    best, points = energies.copy(), arrangements.points.copy()
    frozen = np.array([not arrangements.rotations[i].any() for i in range(len(arrangements))])
    minimizers = [_Minimizer(arrangements, row) for row in range(len(arrangements))]
    active = np.flatnonzero(~frozen).tolist()
    for stage, (steps, share) in enumerate(STAGES):
        for _ in range(steps):
            active = [row for row in active if not minimizers[row].done]
            if not active:
                break
            current = arrangements[active].at(np.stack([minimizers[row].points for row in active]))
            structures = current.structures()
            found = potential.evaluate(structures, forces=True)
            assert found.forces is not None
            gradients = current.gradient(np.nan_to_num(np.stack(found.forces)))
            values = found.energies / len(structures[0])  # arrangements of one crystal have the same atoms
            for row, value, gradient in zip(active, values.tolist(), gradients, strict=True):
                if value < best[row]:
                    best[row], points[row] = value, minimizers[row].points.copy()
                minimizers[row].step(value, gradient)
        if stage < len(STAGES) - 1:
            keep = max(KEPT, round(share ** (stage + 1) * len(arrangements)))
            going = set(different(best, keep).tolist())
            active = [row for row in active if row in going]
    return arrangements.at(points), best


class _Minimizer:
    """BFGS for the parameters of one arrangement.

    A variable is a fractional coordinate multiplied by the length of its axis and by the square root of the number of
    atoms in the orbit. Distances between variables then correspond to distances of atoms in Å.
    """

    def __init__(self, arrangements: Arrangements, row: int) -> None:
        self.points: Array = arrangements.points[row].copy()
        n_atoms = np.bincount(arrangements.orbit[row], minlength=len(self.points))
        self._roots = np.sqrt(np.maximum(n_atoms, 1))[:, None]
        self._scale: Array = self._roots * arrangements.lengths[row]
        self._matrix: Array = np.eye(self.points.size) * CURVATURE
        self._before: tuple[Array, Array] | None = None
        self.done = False

    def step(self, value: float, gradient: Array) -> None:
        """Take one step, given the energy and its derivative with respect to the points (O, 3) [eV]."""
        slope = (gradient / self._scale).reshape(-1)
        if not np.isfinite(value) or not np.isfinite(slope).all() or np.abs(slope).max() < FORCE:
            self.done = True
            return
        here = (self.points * self._scale).reshape(-1)
        if self._before is not None:
            moved, change = here - self._before[0], slope - self._before[1]
            product, image = moved @ change, self._matrix @ moved
            if abs(product) > 1e-10 and abs(moved @ image) > 1e-10:
                self._matrix += np.outer(change, change) / product - np.outer(image, image) / (moved @ image)
        self._before = (here, slope)
        curvatures, axes = np.linalg.eigh(self._matrix)
        move = (-axes @ ((slope @ axes) / np.maximum(np.abs(curvatures), 1e-3))).reshape(self.points.shape)
        longest = np.linalg.norm(move / self._roots, axis=1).max()
        self.points = self.points + move * min(1.0, MAX_STEP / max(longest, 1e-12)) / self._scale


def generator(seed: int, identifier: str) -> np.random.Generator:
    """Random number generator of one crystal; it depends only on the seed and the id of the crystal."""
    import hashlib

    digest = hashlib.sha256(f"structures/{seed}/{identifier}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def record(result: Search) -> dict[str, Any]:
    """The numbers of a search, for the table of results."""
    return {
        "tries": result.tried, "proposed": result.proposed, "too_close": result.too_close, "failed": result.failed,
        "positions": result.found[0].positions,
    }  # fmt: skip
