"""Training rows for a proxy, made from evaluated crystals.

One evaluated crystal gives up to two rows. The *sampled* row is the crystal as the model proposed it. Its label is
the potential's energy with the atoms relaxed in the sampled cell and symmetry, which the proxy should have predicted.
The *relaxed* row is the crystal after relaxation, with its own space group, cell and energy. The sampled row keeps its
own label even if relaxation lowers the energy a lot, because the proxy predicts the energy of a crystal in a given
cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from crystalgfn.atoms.potentials import make
from crystalgfn.checks import positive
from crystalgfn.crystal.crystallography import has_room
from crystalgfn.crystal.crystallography.cells import fits_group
from crystalgfn.crystal.crystallography.elements import element_symbols
from crystalgfn.crystal.crystals import LATTICE_PARAMETERS
from crystalgfn.crystal.formulas import count_rows, parse_formula
from crystalgfn.crystal.tables import CRYSTAL_COLUMNS
from crystalgfn.proxies.hull import hull_energies

if TYPE_CHECKING:
    import pandas as pd

    from crystalgfn.atoms.potentials.references import ElementReferences
    from crystalgfn.proxies.hull import ConvexHull

CAP = 1.5
"""Largest energy above the hull [eV/atom] in training rows; higher energies are set to it."""

FLOOR = -0.5
"""Energy above the hull [eV/atom] below which there is no training row: the potential is probably wrong there."""

SAME_LENGTHS = 0.03
"""Relative difference of lengths below which a relaxed crystal in the sampled space group is the sampled crystal."""

SAME_ANGLES = 2.0
"""Difference of angles [degrees] below which a relaxed crystal in the sampled space group is the sampled crystal."""

FAILED_WEIGHT = 0.5
"""Weight of a crystal that could not be built, because its label is assumed, not computed."""

KINDS = ("sampled", "relaxed", "failed")
"""Kinds of training rows, see `training_rows`."""


def with_energies(
    frame: pd.DataFrame, references: ElementReferences, hull: ConvexHull, offset: float = 0.0
) -> pd.DataFrame:
    """Formation energies and energies above the hull of evaluated crystals.

    Args:
        frame: n rows of `LabelDatabase.frame`.
        references: elemental references of the potential.
        hull: hull of formation energies.
        offset: amount by which the potential's formation energies are too high [eV/atom]; it is subtracted.

    Returns:
        the frame with ``hull_energy``, ``formation_energy_sampled``, ``formation_energy_relaxed``,
        ``energy_above_hull_sampled`` and ``energy_above_hull_relaxed`` [eV/atom]; NaN if there is no energy, an element
        has no reference, or the hull does not have the elements.
    """
    counts = count_rows(map(parse_formula, frame["formula"]))
    shares = counts.double() / counts.sum(1, keepdim=True).clamp_min(1)
    per_element = torch.tensor([references.energies.get(symbol, float("nan")) for symbol in element_symbols()])
    # Absent elements contribute nothing, even if they have no reference.
    elements = torch.where(counts > 0, shares * per_element.double(), 0.0).sum(1).numpy()
    result = frame.assign(hull_energy=hull_energies(counts, hull))
    for stage in ("sampled", "relaxed"):
        formation = frame[f"energy_{stage}"].to_numpy(dtype=float) - elements - offset
        result[f"formation_energy_{stage}"] = formation
        result[f"energy_above_hull_{stage}"] = formation - result["hull_energy"].to_numpy()
    return result


def training_rows(frame: pd.DataFrame, cap: float = CAP) -> pd.DataFrame:
    """Rows to train a proxy of the formation energy on.

    A crystal that could not be built gets an energy of ``cap`` above the hull. A crystal that was given up has no row,
    because nothing is known about it, and neither has a crystal that contradicts itself (`contradicts_itself`). There
    is also no row for a crystal with elements that the potential does not know, and no row for an energy lower than
    `FLOOR` above the hull.

    If the relaxed crystal has the formula and space group of the sampled crystal and nearly the same cell
    (`SAME_LENGTHS`, `SAME_ANGLES`), both rows describe one crystal. The sampled row then takes the lower of the two
    energies, because the search has only missed better positions. The relaxed row keeps its own energy. Each of the two
    rows has half the weight.

    Args:
        frame: what `with_energies` returned.
        cap: largest energy above the hull [eV/atom]; higher energies are set to it.

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
    failed &= ~contradicts_itself(frame)
    weight = np.where(same, 0.5, 1.0)
    parts = []
    for kind, energy, cells, weights in (
        ("sampled", np.where(same, lower, formation["sampled"]), CRYSTAL_COLUMNS, weight),
        ("failed", np.where(failed, hull + cap, np.nan), CRYSTAL_COLUMNS, np.full(len(frame), FAILED_WEIGHT)),
        ("relaxed", formation["relaxed"], [f"{name}_relaxed" for name in CRYSTAL_COLUMNS], weight),
    ):
        part = frame[list(cells)].set_axis(list(CRYSTAL_COLUMNS), axis=1)
        # Without an energy of the hull, the cap is unknown, and the energy is kept.
        part["formation_energy"] = np.where(np.isnan(hull), energy, np.minimum(energy, hull + cap))
        part["kind"] = kind
        part["key"], part["round"] = frame["key"], frame["round"]
        part["weight"], part["source"] = weights, frame["source"]
        usable = np.isfinite(energy) & ~(energy - hull < FLOOR) & (part["space_group"] > 0).to_numpy()
        parts.append(part[usable])
    rows = pd.concat([pd.concat(parts[:2]).sort_index(kind="stable"), parts[2]], ignore_index=True)
    rows["space_group"] = rows["space_group"].astype("int64")
    return rows


def contradicts_itself(frame: pd.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which crystals could not be built because no such crystal exists: a fault of the input, not of the crystal.

    Args:
        frame: n rows of `LabelDatabase.frame`.

    Returns:
        (n,) whether a crystal failed, and its cell does not have the shape that the space group demands, or the Wyckoff
        positions of the group cannot hold its atoms.
    """
    result = np.zeros(len(frame), dtype=np.bool_)
    failed = (frame["status"] == "failed").to_numpy().nonzero()[0]
    part = frame.iloc[failed]
    groups = part["space_group"].to_numpy(dtype=np.int64)
    has_cell = fits_group(groups, part[list(LATTICE_PARAMETERS)].to_numpy(dtype=np.float64))
    counts = [parse_formula(formula).values() for formula in part["formula"]]
    fits = [has_room(group, atoms) for group, atoms in zip(groups.tolist(), counts, strict=True)]
    result[failed] = ~(has_cell & np.array(fits, dtype=np.bool_))
    return result


def _judged(frame: pd.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """(n,) whether the potential knows all elements; if not, a failure to build says nothing about the crystal."""
    pairs = zip(frame["potential"], frame["formula"], strict=True)
    return np.array([not make(potential).unknown(parse_formula(formula)) for potential, formula in pairs], dtype=bool)


def _same_crystal(frame: pd.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """(n,) whether the relaxed and the sampled crystal agree in formula, space group and cell."""
    before = frame[list(LATTICE_PARAMETERS)].to_numpy(dtype=float)
    after = frame[[f"{name}_relaxed" for name in LATTICE_PARAMETERS]].to_numpy(dtype=float)
    with np.errstate(invalid="ignore"):
        lengths = (np.abs(after[:, :3] / before[:, :3] - 1) < SAME_LENGTHS).all(1)
        angles = (np.abs(after[:, 3:] - before[:, 3:]) < SAME_ANGLES).all(1)
    equal = (frame["formula"] == frame["formula_relaxed"]) & (frame["space_group"] == frame["space_group_relaxed"])
    return lengths & angles & equal.to_numpy()
