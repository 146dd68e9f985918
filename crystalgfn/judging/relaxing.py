"""Relax one crystal with one potential and compare it with the crystal as given. Runs in worker processes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crystalgfn.atoms.build import prepare, relax_given

if TYPE_CHECKING:
    from pymatgen.core import Structure

__all__ = ["FUNCTION", "compare", "prepare", "relax"]

FUNCTION = "crystalgfn.judging.relaxing:relax"
"""What worker processes call."""


def relax(task: Mapping[str, Any]) -> dict[str, Any]:
    """Relax a crystal as `crystalgfn.atoms.build.relax_given` does, and compare it with the crystal as given.

    Args:
        task: ``id``, ``structure`` (``as_dict`` of pymatgen), ``seed`` and ``potential``.

    Returns:
        the result of ``relax_given``, with those of `compare`.
    """
    from pymatgen.core import Structure

    result = relax_given(task)
    if "structure_relaxed" not in result:
        return result
    start = time.process_time()
    compared = compare(*(Structure.from_dict(result[f"structure_{stage}"]) for stage in ("built", "relaxed")))
    return result | compared | {"cpu_seconds": result["cpu_seconds"] + time.process_time() - start}


def compare(given: Structure, relaxed: Structure) -> dict[str, Any]:
    """Compare a structure with its relaxed form by pymatgen's StructureMatcher with its default tolerances.

    Both must have the same atoms. The cells are compared as they are: a search for smaller cells would take the mean of
    atoms that have moved apart.

    Returns:
        ``match``, whether they are the same crystal; and ``displacement`` [Å], the root mean square displacement of the
        atoms between the best matching cells, which are scaled to the same volume; absent without a match.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    found = StructureMatcher(primitive_cell=False).get_rms_dist(given, relaxed)
    if found is None:
        return {"match": False}
    # pymatgen gives the displacement in units of the cube root of the volume of an atom.
    edge = ((given.volume / len(given) + relaxed.volume / len(relaxed)) / 2) ** (1 / 3)
    return {"match": True, "displacement": float(found[0]) * edge}
