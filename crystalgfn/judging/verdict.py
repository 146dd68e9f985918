"""What the relaxations say of each crystal, and of all of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalgfn.atoms.doubts import COLLAPSE, MOLECULE, doubts
from crystalgfn.crystal.formulas import count_rows, formula_text
from crystalgfn.evaluation.intervals import tally_with_interval
from crystalgfn.judging.known import Reference, first_of_each, prototype
from crystalgfn.judging.sources import Given, counts_of
from crystalgfn.proxies.hull import AnyHull, ConvexHull, ReferenceHull, has_competitor, hull_energies, joined

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

    from crystalgfn.atoms.potentials import Potential
    from crystalgfn.atoms.potentials.references import ElementReferences

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

THRESHOLDS = (0.0, 0.08, 0.1)
"""Energies above the hull [eV/atom] up to which a crystal survives; 0.08 is common in the literature."""

SURVIVES = THRESHOLDS[-1]
"""Threshold of the columns ``survives``, ``sound`` and ``faithful``."""

TOLERANCE = 1e-6
"""Energies above the hull that differ by less [eV/atom] are equal; hulls are rounded to 1e-7."""

FAR_BELOW = -0.1
"""Energy above the hull [eV/atom] below which a missing phase in the reference is more likely than a discovery."""

VOLUME_KEPT = 0.1
"""Largest relative change of the volume in a relaxation with which the volume counts as kept."""

EACH = (
    "formation_energy", "energy_above_hull", "energy_above_hull_together", "space_group", "volume_change", "match",
    "displacement", "min_distance", "converged", "cpu_seconds",
)  # fmt: skip
"""Columns of each potential, after its `slug`. Energies in eV/atom, lengths in Å, times in s of processor time."""


def slug(name: str) -> str:
    """The name of a potential as the first part of a column's or a folder's name: ``sevennet_7net_0``."""
    return re.sub(r"\W+", "_", name.lower()).strip("_")


@dataclass(frozen=True)
class Judge:
    """A potential with its elemental references."""

    potential: Potential
    references: ElementReferences

    @property
    def slug(self) -> str:
        """See `slug`."""
        return slug(self.potential.name)


def judge_crystals(
    given: Sequence[Given],
    results: Sequence[Sequence[Mapping[str, Any]]],
    judges: Sequence[Judge],
    hull: ConvexHull | ReferenceHull,
    reference: Reference | None,
) -> pd.DataFrame:
    """Make the table of crystals.

    Args:
        given: n crystals.
        results: for each of the judges n results of `crystalgfn.judging.relaxing.relax`; that of a crystal without a
            structure has only a ``reason``.
        judges: the potentials.
        hull: hull of known phases.
        reference: known crystals with atoms; None leaves out what needs them.

    Returns:
        n rows. Columns: id, formula, space_group as the generator meant it, n_atoms in the given cell; for each judge
        those of `EACH`; then energy_above_hull, the highest of the judges' [eV/atom]; has_competitor, far_below,
        molecules, collapsed, doubts; keeps_group, keeps_volume, match, displacement, of all judges together; unique,
        novel, known_as, prototype, new_prototype; survives, sound, faithful at `SURVIVES`; cpu_seconds to make the
        crystal; reason. Values that are not known are missing; marks are then False.
    """
    import pandas as pd

    n = len(given)
    counts = [counts_of(crystal.structure) if crystal.structure is not None else {} for crystal in given]
    table = count_rows(counts)
    levels = np.full(n, np.nan)
    has_atoms = np.array([bool(found) for found in counts], dtype=np.bool_)
    refusals = np.array([""] * n, dtype=object)
    if has_atoms.any():
        levels[has_atoms] = hull_energies(table[has_atoms], hull)
        refusals[has_atoms] = hull.refused(table[has_atoms])
    competes = has_competitor(table, levels)
    end = [[_structure(result) for result in own] for own in results]
    kinds = [[_doubts(structure) for structure in own] for own in end]
    columns: dict[str, Any] = {
        "id": [crystal.id for crystal in given],
        "formula": [formula_text(found) for found in counts],
        "space_group": _whole([_group(crystal, [own[row] for own in results]) for row, crystal in enumerate(given)]),
        "n_atoms": _whole([sum(found.values()) or None for found in counts]),
    }
    above: list[Floats] = []
    together: list[Floats] = []
    for judge, own, structures, found in zip(judges, results, end, kinds, strict=True):
        energies = np.array([_formation_energy(judge, *pair) for pair in zip(own, structures, strict=True)], np.float64)
        sound = np.where([COLLAPSE in doubt for doubt in found], np.nan, energies)
        above.append(energies - levels)
        together.append(energies - _levels_together(table, sound, has_atoms, hull))
        each = {
            "formation_energy": energies,
            "energy_above_hull": above[-1],
            "energy_above_hull_together": together[-1],
            "space_group": _whole([r.get("space_group_relaxed") for r in own]),
            "volume_change": _numbers(own, "volume_change"),
            "match": pd.array([r.get("match") for r in own], dtype="boolean"),
            "displacement": _numbers(own, "displacement"),
            "min_distance": _numbers(own, "min_distance_relaxed"),
            "converged": pd.array([r.get("converged") for r in own], dtype="boolean"),
            "cpu_seconds": _numbers(own, "cpu_seconds"),
        }
        columns |= {f"{judge.slug}_{name}": each[name] for name in EACH}
    highest, lowest = np.max(above, axis=0), np.min(above, axis=0)
    groups = np.array(columns["space_group"].fillna(-1))
    kept_group = np.all([np.array(columns[f"{j.slug}_space_group"].fillna(-2)) == groups for j in judges], axis=0)
    kept_volume = np.all([np.abs(columns[f"{j.slug}_volume_change"]) <= VOLUME_KEPT for j in judges], axis=0)
    matches = np.all([columns[f"{j.slug}_match"].fillna(False).to_numpy(bool) for j in judges], axis=0)
    merged = [{kind: text for own in kinds for kind, text in own[row].items()} for row in range(n)]
    columns |= {
        "energy_above_hull": highest,
        "has_competitor": competes,
        "far_below": np.isfinite(lowest) & (lowest < FAR_BELOW),
        "molecules": [MOLECULE in found for found in merged],
        "collapsed": [COLLAPSE in found for found in merged],
        "doubts": ["; ".join(found.values()) for found in merged],
        "keeps_group": kept_group,
        "keeps_volume": kept_volume,
        "match": matches,
        "displacement": np.max([columns[f"{j.slug}_displacement"] for j in judges], axis=0),
    }
    first = [next((own[row] for own in end if own[row] is not None), None) for row in range(n)]
    columns |= _novelty(first, end, reference)
    survives = competes & (highest <= SURVIVES + TOLERANCE)
    doubtful = np.array(columns["molecules"]) | np.array(columns["collapsed"]) | columns["far_below"]
    columns |= {
        "survives": survives,
        "sound": survives & ~doubtful,
        "faithful": survives & kept_group & kept_volume,
        "cpu_seconds": np.array([crystal.cpu_seconds for crystal in given], dtype=np.float64),
        "reason": [
            crystal.reason
            or _reasons(judges, [own[row] for own in results])
            or _unplaced(refusals[row], judges, counts[row])
            for row, crystal in enumerate(given)
        ],
    }
    return pd.DataFrame(columns)


def summarize(frame: pd.DataFrame, potentials: Sequence[str], with_reference: bool) -> dict[str, Any]:
    """Counts over all crystals, with shares and 95 % intervals. Failures count as crystals.

    Args:
        frame: n rows, as `judge_crystals` returns them.
        potentials: names of the potentials.
        with_reference: whether there were known crystals with atoms.

    Returns:
        the content of ``judged.json``, without ``about``; docs/judging.md explains it.
    """
    n = len(frame)
    marks = {name: frame[name].to_numpy(bool) for name in _MARKS}
    above = [frame[f"{slug(name)}_energy_above_hull"].to_numpy(float) for name in potentials]
    together = [frame[f"{slug(name)}_energy_above_hull_together"].to_numpy(float) for name in potentials]
    doubtful = marks["far_below"] | marks["molecules"] | marks["collapsed"]
    sun = marks["unique"] & marks["novel"]
    symmetric = np.all([frame[f"{slug(name)}_space_group"].fillna(1).to_numpy() > 1 for name in potentials], axis=0)

    def count(mask: Mask) -> dict[str, Any]:
        return tally_with_interval(int(mask.sum()), n)

    survival: dict[str, dict[str, Any]] = {}
    for threshold in THRESHOLDS:
        each = [marks["has_competitor"] & (energies <= threshold + TOLERANCE) for energies in above]
        every = np.all(each, axis=0)
        survival[f"{threshold:g}"] = {
            **{name: count(mask) for name, mask in zip(potentials, each, strict=True)},
            "all": count(every),
            "sound": count(every & ~doubtful),
            "together": count(every & np.all([e <= threshold + TOLERANCE for e in together], axis=0)),
            "faithful": count(every & marks["keeps_group"] & marks["keeps_volume"]),
            "sun": count(every & sun) if with_reference else None,
            "ssun": count(every & sun & symmetric) if with_reference else None,
            "new_prototype": count(every & marks["new_prototype"]) if with_reference else None,
        }
    reasons = frame.loc[frame["reason"] != "", "reason"].map(_kind).value_counts(sort=True)
    alone = ~marks["has_competitor"] & (frame["energy_above_hull"].to_numpy(float) <= SURVIVES + TOLERANCE)
    seconds = frame["cpu_seconds"].to_numpy(float)
    displacement = frame["displacement"].dropna()
    return {
        "crystals": n,
        "potentials": list(potentials),
        "failed": {str(reason): int(number) for reason, number in reasons.items()},
        "survival": survival,
        "fidelity": {
            "group": count(marks["keeps_group"]),
            "volume": count(marks["keeps_volume"]),
            "group_and_volume": count(marks["keeps_group"] & marks["keeps_volume"]),
            "match": count(marks["match"]),
        },
        "displacement": float(displacement.median()) if len(displacement) else None,
        "novelty": {
            "unique": count(marks["unique"]),
            "novel": count(marks["novel"]) if with_reference else None,
            "new_prototype": count(marks["new_prototype"]) if with_reference else None,
        },
        "apart": {
            "no_competitor": count(alone),
            "far_below": count(marks["far_below"]),
            "molecules": count(marks["molecules"]),
            "collapsed": count(marks["collapsed"]),
        },
        "cpu_seconds": {
            "making": float(np.nansum(seconds)) if np.isfinite(seconds).any() else None,
            "judging": {name: float(np.nansum(frame[f"{slug(name)}_cpu_seconds"])) for name in potentials},
        },
    }


_MARKS = (
    "has_competitor", "far_below", "molecules", "collapsed", "keeps_group", "keeps_volume", "match", "unique", "novel",
    "new_prototype",
)  # fmt: skip


def _group(crystal: Given, results: Sequence[Mapping[str, Any]]) -> int | None:
    """The space group that the generator meant, or that of the structure as given."""
    if crystal.space_group is not None:
        return crystal.space_group
    return next((result["space_group_built"] for result in results if "space_group_built" in result), None)


def _structure(result: Mapping[str, Any]) -> Structure | None:
    from pymatgen.core import Structure

    content = result.get("structure_relaxed")
    return None if content is None else Structure.from_dict(content)


def _doubts(structure: Structure | None) -> dict[str, str]:
    return {} if structure is None else doubts(structure, math.nan, "")


def _formation_energy(judge: Judge, result: Mapping[str, Any], structure: Structure | None) -> float:
    if structure is None:
        return math.nan
    return judge.references.formation_energy(result["energy_relaxed"], structure.composition)


def _levels_together(table: Any, energies: Floats, has_atoms: Mask, hull: ConvexHull | ReferenceHull) -> Floats:
    """(n,) energy of the hull of the reference and of all n crystals [eV/atom]."""
    levels = np.full(len(energies), np.nan)
    if has_atoms.any():
        own: AnyHull = joined(hull, table[has_atoms], energies[has_atoms])
        levels[has_atoms] = hull_energies(table[has_atoms], own)
    return levels


def _novelty(
    first: Sequence[Structure | None], every: Sequence[Sequence[Structure | None]], reference: Reference | None
) -> dict[str, Any]:
    """Columns about what is the same among the crystals and in the reference.

    Args:
        first: the relaxed structure of each of the n crystals by the first potential that relaxed it.
        every: for each potential the n relaxed structures.
        reference: known crystals with atoms.
    """
    from tqdm import tqdm

    n = len(first)
    firsts = first_of_each(first)
    names = [prototype(structure) if structure is not None else "" for structure in first]
    known, new_prototype = [""] * n, [False] * n
    if reference is not None:
        for row in tqdm(range(n), desc="compare with the reference", unit="crystal", disable=n < 2):
            relaxed = [own[row] for own in every]
            found = (reference.known_as(structure) for structure in relaxed if structure is not None)
            known[row] = next((name for name in found if name), "")
            if names[row] and (structure := first[row]) is not None:
                new_prototype[row] = names[row] not in reference.prototypes(structure)
    return {
        "unique": [firsts[row] == row for row in range(n)],
        "novel": [reference is not None and first[row] is not None and not known[row] for row in range(n)],
        "known_as": known,
        "prototype": names,
        "new_prototype": new_prototype,
    }


def _reasons(judges: Sequence[Judge], results: Sequence[Mapping[str, Any]]) -> str:
    """Why a crystal was not relaxed by each potential; empty if all relaxed it."""
    reasons = {j.potential.name: str(r["reason"]) for j, r in zip(judges, results, strict=True) if r.get("reason")}
    if len(reasons) == len(judges) and len(set(reasons.values())) == 1:
        return next(iter(reasons.values()))
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def _unplaced(refusal: str, judges: Sequence[Judge], counts: Mapping[str, int]) -> str:
    """Why a relaxed crystal has no energy above the hull."""
    for judge in judges:
        missing = [symbol for symbol in counts if symbol not in judge.references.energies]
        if missing:
            return f"no formation energy: {judge.potential.name} has no reference for {', '.join(missing)}"
    return f"no energy above the hull: {refusal}" if refusal else ""


def _kind(reason: str) -> str:
    """A reason without its numbers, so that equal reasons are counted together; names such as 7net-0 stay."""
    return re.sub(r"(?<![\w:.-])\d+(\.\d+)?(?!\w)", "N", reason)


def _numbers(results: Sequence[Mapping[str, Any]], name: str) -> Floats:
    return np.array([math.nan if r.get(name) is None else r[name] for r in results], dtype=np.float64)


def _whole(values: Sequence[int | None]) -> pd.Series[Any]:
    import pandas as pd

    return pd.Series(pd.array(values, dtype="Int64"))
