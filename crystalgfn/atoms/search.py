"""Find the atoms of one crystal: many arrangements, the best of them by CHGNet, in the sampled cell.

1. Propose arrangements (`arrangements`) and drop those whose atoms are too close or too crowded.
2. Evaluate CHGNet's energy of all, and keep the best different ones, `tries` of them.
3. Relax their free coordinates by CHGNet's forces, all together in batches; at each stage the better half goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalgfn.atoms.arrangements import Arrangements, crowding, distance_ratios, propose
from crystalgfn.atoms.potentials import chgnet
from crystalgfn.crystal.crystallography.positions import Way, settings, ways

if TYPE_CHECKING:
    from pymatgen.core import Structure

Array = NDArray[np.float64]

PROPOSALS = 24
"""Arrangements proposed for each one that is tried."""

BEST_PAIRS = 6
"""Pairs of a way and a cell that the last round looks at."""

MAX_WAYS = 200
"""Ways to put the atoms on positions that are considered."""

CLOSEST = 0.6
"""Atoms closer than this share of the sum of their covalent radii are too close for CHGNet to be trusted. Of 3,000 real
crystals, 153 of them with hydrogen, none has a shorter distance, and 0.2 % one below 0.65."""

CROWDED = 320.0
"""More pairs of neighbours within 3 Å than this for an atom (18 neighbours) are too many: of 3,000 real crystals none
has more than 306. Such arrangements, of cells as thin as one atom, would also cost ten times as much."""

STAGES = ((5, 0.5), (8, 0.5), (15, 0.0))
"""Steps of each stage of the relaxation, and the share of the tries that goes on after it; `KEPT` at least."""

KEPT = 2
"""Arrangements that remain in the end."""

SAME = 2e-4
"""Energies closer than this [eV/atom] are taken for the same arrangement."""

CURVATURE = 70.0
"""First guess of the second derivative of the energy [eV/Å²], ase's own for BFGS."""

MAX_STEP = 0.2
"""Longest step of an atom [Å]."""

FORCE = 0.05
"""An arrangement is done when the largest force on its parameters is below this [eV/Å]."""


class NoStructure(Exception):
    """A crystal for which no atoms could be placed; the message is the reason."""


@dataclass(frozen=True)
class Found:
    """One arrangement.

    Attributes:
        structure: primitive cell.
        energy: CHGNet's energy [eV/atom].
        positions: element and Wyckoff position of each orbit.
    """

    structure: Structure
    energy: float
    positions: str


@dataclass(frozen=True)
class Search:
    """The result for one crystal.

    Attributes:
        found: the best arrangements, lowest energy first.
        proposed: arrangements that were made.
        too_close: of these, arrangements with atoms too close to each other or with too many neighbours.
        failed: of these, arrangements that CHGNet could not treat.
        tried: arrangements that were relaxed.
    """

    found: list[Found]
    proposed: int
    too_close: int
    failed: int
    tried: int


def search(number: int, counts: Mapping[str, int], lattice: Array, tries: int, random: np.random.Generator) -> Search:
    """Put atoms into a cell.

    Args:
        number: space group.
        counts: atoms of each element in the conventional cell.
        lattice: (6,) a, b, c [Å], alpha, beta, gamma [degrees] of the conventional standard cell.
        tries: arrangements that are relaxed.
        random: the generator.

    Raises:
        NoStructure: if the composition or cell does not fit the group, or if atoms are too close or too crowded in all
            arrangements.
    """
    unknown = sorted(chgnet.FORBIDDEN & set(counts))
    if unknown:
        raise NoStructure(f"CHGNet does not know {', '.join(unknown)}")
    try:
        cells = settings(number, lattice)
    except ValueError as error:
        raise NoStructure(str(error)) from None
    choices = ways(number, counts, MAX_WAYS, random)
    if not choices:
        raise NoStructure(f"the composition does not fit the Wyckoff positions of space group {number}")
    pairs = [(way, cell) for way in choices for cell in cells]
    arrangements, energies, too_close, failed = sample(number, counts, pairs, PROPOSALS * tries, random)
    proposed = len(arrangements) + too_close + failed
    if not len(arrangements):
        what = "atoms without neighbours within 6 Å" if failed else "atoms too close or too crowded"
        raise NoStructure(f"{what} in all of {proposed} arrangements")
    best = different(energies, tries)
    relaxed, values = descend(arrangements[best], energies[best])
    # CHGNet may pull atoms into each other: it has not seen such distances.
    values = np.where(are_apart(relaxed.structures()), values, np.inf)
    order = different(values, KEPT)
    if not len(order):
        raise NoStructure(f"CHGNet pulls atoms into each other in all of {len(best)} arrangements")
    shown = relaxed[order].structures()
    found = [
        Found(structure, float(values[i]), relaxed.ways[i]) for structure, i in zip(shown, order.tolist(), strict=True)
    ]
    return Search(found, proposed, too_close, failed, len(best))


def sample(
    number: int, counts: Mapping[str, int], pairs: Sequence[tuple[Way, Array]], n: int, random: np.random.Generator
) -> tuple[Arrangements, Array, int, int]:
    """Propose arrangements in rounds, and evaluate CHGNet for those whose atoms are apart.

    The first round takes each pair of a way and a cell once, those met first if there are too many. The next ones take
    new points in the pairs that gave the lowest energies. A pair without free coordinates is used once.

    Args:
        number: space group.
        counts: atoms of each element in the conventional cell.
        pairs: ways and conventional cells.
        n: number of arrangements, less if there are not so many.
        random: the generator.

    Returns:
        the usable arrangements, their energies [eV/atom], the number with atoms too close or too crowded, and the
        number that CHGNet could not treat.
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
        energies[apart] = chgnet.energies(
            [structure for structure, fine in zip(structures, apart, strict=True) if fine]
        )
        usable = np.isfinite(energies)
        too_close += int((~apart).sum())
        failed += int((apart & ~usable).sum())
        parts.append((arrangements[np.flatnonzero(usable)], energies[usable]))
        np.minimum.at(lowest, np.array(chosen)[usable], energies[usable])
        # Pairs that never gave a usable arrangement come last: their energy is infinite.
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
    """(n,) whether no atoms of a structure are too close or too crowded for CHGNet, see `CLOSEST` and `CROWDED`."""
    return (distance_ratios(structures)[0] >= CLOSEST) & (crowding(structures) <= CROWDED)


def different(energies: Array, most: int) -> NDArray[np.int64]:
    """Indices of the lowest energies (n,), lowest first, those closer than `SAME` once and at most ``most``."""
    chosen: list[int] = []
    for index in np.argsort(energies, kind="stable").tolist():
        if len(chosen) == most or not np.isfinite(energies[index]):
            break
        if not chosen or energies[index] - energies[chosen[-1]] > SAME:
            chosen.append(index)
    return np.array(chosen, dtype=np.int64)


def descend(arrangements: Arrangements, energies: Array) -> tuple[Arrangements, Array]:
    """Relax the free coordinates in a fixed cell.

    Quasi-Newton steps (BFGS) in the parameters, each arrangement with its own matrix, CHGNet's forces for all at once.

    Args:
        arrangements: n arrangements.
        energies: (n,) their energies [eV/atom].

    Returns:
        the arrangements at the best points that were met, and their n energies [eV/atom].
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
            values, forces = chgnet.energies_and_forces(current.structures())
            gradients = current.gradient(np.nan_to_num(forces))
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

    Its variables are in Å: a fractional coordinate times its axis and the root of the number of atoms that follow it,
    so that the metric is that of the atoms.
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
        """Move on, given the energy and its derivative by the points (O, 3) [eV]."""
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
    """The random stream of one crystal: it depends on the seed and the crystal's id alone."""
    import hashlib

    digest = hashlib.sha256(f"structures/{seed}/{identifier}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def record(result: Search) -> dict[str, Any]:
    """The numbers of a search, for a table."""
    return {
        "tries": result.tried, "proposed": result.proposed, "too_close": result.too_close, "failed": result.failed,
        "positions": result.found[0].positions,
    }  # fmt: skip
