"""From evaluated crystals to rows that a proxy is trained on.

One evaluated crystal gives up to two rows. The *sampled* row is the crystal as a model proposed it, and its label the
energy that CHGNet finds with the atoms relaxed in that cell and symmetry: what a proxy should have said. The *relaxed*
row is what became of it: another group, cell and energy, and so another point of the same landscape. A sampled crystal
keeps its own, high label however far its energy falls in relaxation: the proxy is asked about the crystal in that cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from crystalgfn.checks import positive
from crystalgfn.crystal.crystallography.elements import element_symbols
from crystalgfn.crystal.crystals import LATTICE_PARAMETERS
from crystalgfn.crystal.formulas import count_rows, parse_formula
from crystalgfn.crystal.tables import CRYSTAL_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

    from crystalgfn.atoms.potentials.references import ElementReferences
    from crystalgfn.proxies.hull import ConvexHull

SURVIVES = 0.1
"""A crystal survives if it is less than this far above the hull [eV/atom] after relaxation."""

CAP = 1.5
"""Energies above the hull [eV/atom] end here in training rows: beyond, all is equally bad."""

FLOOR = -0.5
"""No row for energies above the hull lower than this [eV/atom]: CHGNet out of its depth, not a discovery."""

SAME_LENGTHS = 0.03
"""Relative difference of lengths, and"""

SAME_ANGLES = 2.0
"""difference of angles [degrees] up to which a relaxed crystal in the sampled group is the sampled crystal itself."""

FAILED_WEIGHT = 0.5
"""Weight of a crystal that could not be built: its label is a judgement, not a result."""

KINDS = ("sampled", "relaxed", "failed")


def with_energies(
    frame: pd.DataFrame, references: ElementReferences, hull: ConvexHull, offset: float = 0.0
) -> pd.DataFrame:
    """Formation energies and energies above the hull of evaluated crystals.

    Args:
        frame: n rows of `LabelDatabase.frame`.
        references: elemental references of CHGNet.
        hull: hull of formation energies.
        offset: what CHGNet's formation energies are too high by [eV/atom]; it is subtracted.

    Returns:
        the frame with ``hull_energy``, ``formation_energy_sampled``, ``formation_energy_relaxed``,
        ``energy_above_hull_sampled`` and ``energy_above_hull_relaxed`` [eV/atom]; NaN where there is no energy, an
        element has no reference, or the hull does not know the elements.
    """
    counts = count_rows(map(parse_formula, frame["formula"]))
    shares = counts.double() / counts.sum(1, keepdim=True).clamp_min(1)
    per_element = torch.tensor([references.energies.get(symbol, float("nan")) for symbol in element_symbols()])
    # Elements that are absent count nothing, also where they have no reference.
    elements = torch.where(counts > 0, shares * per_element.double(), 0.0).sum(1).numpy()
    result = frame.assign(hull_energy=hull_energies(counts, hull))
    for stage in ("sampled", "relaxed"):
        formation = frame[f"energy_{stage}"].to_numpy(dtype=float) - elements - offset
        result[f"formation_energy_{stage}"] = formation
        result[f"energy_above_hull_{stage}"] = formation - result["hull_energy"].to_numpy()
    return result


def hull_energies(counts: torch.Tensor, hull: ConvexHull) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Energy of the hull [eV/atom] for (n, 94) counts; NaN where the hull does not know the elements."""
    known = torch.tensor([reason == "" for reason in hull.refused(counts)], dtype=torch.bool)
    energies = torch.full((len(counts),), float("nan"), dtype=torch.float64)
    if known.any():
        energies[known] = hull(counts[known]).cpu()
    return energies.numpy()


def training_rows(frame: pd.DataFrame, cap: float = CAP) -> pd.DataFrame:
    """Rows to train a proxy of the formation energy on.

    A crystal that was not built lies at ``cap`` above the hull. One that was given up has no row, since nothing is
    known of it, nor has one with elements that CHGNet does not know, nor an energy lower than `FLOOR` above the hull.

    Where a relaxed crystal has the group and formula of the sampled one and hardly another cell (`SAME_LENGTHS`,
    `SAME_ANGLES`), both rows tell of one crystal: the lower energy is the label of both, because the search had only
    missed better positions, and each counts half.

    Args:
        frame: what `with_energies` returned.
        cap: highest energy above the hull [eV/atom] that is told apart.

    Returns:
        formula, space_group, a, b, c [Å], alpha, beta, gamma [degrees], formation_energy [eV/atom], kind (``sampled``,
        ``relaxed`` or ``failed``), key, round, weight, source; sampled and failed rows first, in order of the frame.

    Raises:
        InputError: if ``cap`` is not positive.
    """
    import pandas as pd

    positive("cap", cap)
    same = _same_crystal(frame)
    formation = {stage: frame[f"formation_energy_{stage}"].to_numpy(dtype=float) for stage in ("sampled", "relaxed")}
    lower = np.fmin(formation["sampled"], formation["relaxed"])
    hull = frame["hull_energy"].to_numpy(dtype=float)
    failed = (frame["status"] == "failed").to_numpy() & frame["gave_up_after"].isna().to_numpy() & _judged(frame)
    weight = np.where(same, 0.5, 1.0)
    parts = []
    for kind, energy, cells, weights in (
        ("sampled", np.where(same, lower, formation["sampled"]), CRYSTAL_COLUMNS, weight),
        ("failed", np.where(failed, hull + cap, np.nan), CRYSTAL_COLUMNS, np.full(len(frame), FAILED_WEIGHT)),
        ("relaxed", formation["relaxed"], [f"{name}_relaxed" for name in CRYSTAL_COLUMNS], weight),
    ):
        part = frame[list(cells)].set_axis(list(CRYSTAL_COLUMNS), axis=1)
        # Where the hull is unknown, so is how bad the crystal is, and its energy stays as it is.
        part["formation_energy"] = np.where(np.isnan(hull), energy, np.minimum(energy, hull + cap))
        part["kind"] = kind
        part["key"], part["round"] = frame["key"], frame["round"]
        part["weight"], part["source"] = weights, frame["source"]
        usable = np.isfinite(energy) & ~(energy - hull < FLOOR) & (part["space_group"] > 0).to_numpy()
        parts.append(part[usable])
    rows = pd.concat([pd.concat(parts[:2]).sort_index(kind="stable"), parts[2]], ignore_index=True)
    rows["space_group"] = rows["space_group"].astype("int64")
    return rows


def _judged(frame: pd.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether CHGNet knows all elements: otherwise that a crystal was not built says nothing about it."""
    from crystalgfn.atoms.potentials.chgnet import FORBIDDEN

    return np.array([FORBIDDEN.isdisjoint(parse_formula(formula)) for formula in frame["formula"]], dtype=bool)


def _same_crystal(frame: pd.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether the relaxed crystal is the sampled one, as far as group, formula and cell can tell."""
    before = frame[list(LATTICE_PARAMETERS)].to_numpy(dtype=float)
    after = frame[[f"{name}_relaxed" for name in LATTICE_PARAMETERS]].to_numpy(dtype=float)
    with np.errstate(invalid="ignore"):
        lengths = (np.abs(after[:, :3] / before[:, :3] - 1) < SAME_LENGTHS).all(1)
        angles = (np.abs(after[:, 3:] - before[:, 3:]) < SAME_ANGLES).all(1)
    equal = (frame["formula"] == frame["formula_relaxed"]) & (frame["space_group"] == frame["space_group_relaxed"])
    return lengths & angles & equal.to_numpy()
