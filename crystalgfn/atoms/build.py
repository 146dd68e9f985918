"""Build one crystal: place its atoms, relax it and describe it. Arguments and results can be written as JSON."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from crystalgfn.atoms.potentials import Potential

SYMPREC = 0.1
"""Tolerance of the symmetry search [Å], the same as in the Materials Project."""

RELAX_WINDOW = 0.1
"""Arrangements with an energy at most this much [eV/atom] above the best one are relaxed too and compared again."""

RACE_STEPS = 15
"""Relaxation steps of each of these arrangements. Afterwards only the one with the lowest energy is continued."""


class Task(TypedDict):
    """A crystal to build, and how to build it.

    Attributes:
        id: name of the crystal. The id and the seed determine all random choices.
        space_group: 1 to 230.
        counts: atoms of each element in the conventional cell.
        lattice: a, b, c [Å], alpha, beta, gamma [degrees] of the conventional standard cell.
        tries: arrangements that are relaxed in the sampled cell.
        seed: seed of the random choices.
        relax: whether to relax positions and cell of the best arrangements.
        potential: name of the potential.
    """

    id: str
    space_group: int
    counts: dict[str, int]
    lattice: list[float]
    tries: int
    seed: int
    relax: bool
    potential: str


def prepare(task: Mapping[str, Any]) -> None:
    """Load the potential of a task, so that loading it does not count towards the time limit of a crystal."""
    from crystalgfn.atoms.potentials import make

    make(task["potential"]).prepare()


def build(task: Mapping[str, Any]) -> dict[str, Any]:
    """Build one crystal.

    Args:
        task: the keys of `Task`.

    Returns:
        numbers, names and structures (``as_dict`` of pymatgen). ``reason`` is empty, or says why there is no structure
        or no relaxed structure. Energies are total energies of the potential, with the corrections that it
        lacks [eV/atom].
    """
    import numpy as np

    from crystalgfn.atoms.potentials import make
    from crystalgfn.atoms.search import NoStructure, generator, record, search

    clock = _Clock()
    potential = make(task["potential"])
    random = generator(task["seed"], task["id"])
    row: dict[str, Any] = {"id": task["id"], "reason": ""}
    try:
        lattice = np.array(task["lattice"])
        result = search(potential, task["space_group"], task["counts"], lattice, task["tries"], random)
    except NoStructure as error:
        return row | {"reason": f"not built: {error}"} | clock.read()
    row |= record(result) | _described("built", potential, result.found[0].structure, result.found[0].energy)
    if task["relax"]:
        try:
            row |= relaxed_columns(potential, [(f.structure, f.energy) for f in result.found], random)
        except RuntimeError as error:
            row["reason"] = f"not relaxed: {error}"
    return row | clock.read()


def relax_given(task: Mapping[str, Any]) -> dict[str, Any]:
    """Relax and describe a structure with known atoms, in the same way as `build`.

    Args:
        task: ``id``, ``structure`` (``as_dict`` of pymatgen), ``seed`` and ``potential``.

    Returns:
        the same kind of result as `build`, without the numbers of the search.
    """
    from pymatgen.core import Structure

    from crystalgfn.atoms.potentials import make
    from crystalgfn.atoms.search import generator

    clock = _Clock()
    potential = make(task["potential"])
    structure = Structure.from_dict(task["structure"])
    energy = float(potential.energies_per_atom([structure])[0])
    row: dict[str, Any] = {"id": task["id"], "reason": ""}
    if math.isnan(energy):
        return row | {"reason": f"not built: {potential.name} cannot evaluate this structure"} | clock.read()
    row |= _described("built", potential, structure, energy)
    try:
        row |= relaxed_columns(potential, [(structure, energy)], generator(task["seed"], task["id"]))
    except RuntimeError as error:
        row["reason"] = f"not relaxed: {error}"
    return row | clock.read()


def relaxed_columns(potential: Potential, found: list[tuple[Structure, float]], random: Any) -> dict[str, Any]:
    """Relax structures with fixed symmetry, then the best one without constraint, and describe the result.

    Args:
        potential: the potential.
        found: structures and their energies without corrections [eV/atom], lowest first.
        random: random number generator for the displacements.

    Returns:
        numbers about the relaxation, and the relaxed structure with its energy.

    Raises:
        RuntimeError: if no structure can be relaxed.
    """
    from crystalgfn.atoms.relax import FREE_STEPS, MAX_STEPS, Relaxation

    race: list[tuple[Relaxation, Structure]] = []
    failures = []
    for structure, energy in found:
        if energy > found[0][1] + RELAX_WINDOW:
            break
        try:
            race.append((Relaxation(potential, structure, symmetric=True).run(RACE_STEPS), structure))
        except RuntimeError as error:
            failures.append(str(error))
    ends = []
    steps = sum(relaxation.steps for relaxation, _ in race)
    for relaxation, structure in sorted(race, key=lambda entry: entry[0].energy):
        before = relaxation.steps
        try:
            ends.append((relaxation.run(MAX_STEPS - before), structure))
        except RuntimeError as error:
            failures.append(str(error))
        steps += relaxation.steps - before
        if ends:
            break
    if not ends:
        raise RuntimeError(failures[0])
    symmetric, start = ends[0]
    final, in_group = symmetric, symmetric.structure()
    try:
        free = Relaxation(potential, in_group, symmetric=False, random=random).run(FREE_STEPS)
        steps += free.steps
        if free.energy < final.energy:
            final = free
    except RuntimeError as error:
        failures.append(f"without symmetry: {error}")
    end = final.structure()
    change = end.volume / len(end) / (start.volume / len(start)) - 1
    return {
        "relaxation_failures": len(failures),
        "steps": steps,
        "converged": final.converged,
        "volume_change": change,
        "settled": final.settled,
        "space_group_symmetric": space_group(in_group),
        **_described("relaxed", potential, end, final.energy),
    }


class _Clock:
    """Measures wall-clock and processor time. On a busy machine only processor time shows what a crystal costs."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self._wall, "cpu_seconds": time.process_time() - self._cpu}


def space_group(structure: Structure) -> int:
    """Number of the space group that spglib finds with `SYMPREC`; 0 if it finds none."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

    try:
        return int(SpacegroupAnalyzer(structure, symprec=SYMPREC).get_space_group_number())
    except (SymmetryUndeterminedError, TypeError):  # spglib finds nothing if atoms coincide
        return 0


def _described(stage: str, potential: Potential, structure: Structure, energy: float) -> dict[str, Any]:
    from crystalgfn.atoms.arrangements import distance_ratios

    ratio, shortest = distance_ratios([structure])
    return {
        f"energy_{stage}": potential.corrected(structure, energy),
        f"space_group_{stage}": space_group(structure),
        f"min_distance_{stage}": float(shortest[0]),
        f"min_distance_ratio_{stage}": float(ratio[0]),
        f"structure_{stage}": structure.as_dict(),
    }
