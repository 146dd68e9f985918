"""Fit elemental references to crystals with known formation energies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Structure

from crystalgfn.atoms import require_extra
from crystalgfn.atoms.potentials.base import Array, Potential
from crystalgfn.atoms.potentials.quiet import silence
from crystalgfn.atoms.potentials.references import ElementReferences, fit
from crystalgfn.checks import at_least, quoted
from crystalgfn.crystal.formation_energies import check_energies
from crystalgfn.crystal.formulas import parse_formula
from crystalgfn.errors import InputError
from crystalgfn.files import check_writable, read_frame

MAX_ATOMS = 24
"""Largest number of atoms in a primitive cell. Small cells are fast to evaluate, and there are enough of them."""


def make(
    table: Path, structures: Path, out: Path, potential: Potential, split: str, per_element: int, seed: int
) -> ElementReferences:
    """Choose crystals, evaluate them with a potential, fit the references and write them.

    Args:
        table: table of crystals with the columns material_id, formula and formation_energy [eV/atom]. The columns
            split and formation_energy_kind are optional; if there is a kind, only rows with ``exact`` are used.
        structures: table with the columns material_id and cif.
        out: JSON file to write.
        potential: the potential. Corrections that its energies lack are added.
        split: value of the column split in the rows to use.
        per_element: number of crystals for each element; fewer if the table has fewer.
        seed: seed of the random choice.

    Returns:
        the references that were written.

    Raises:
        InputError: if a package is missing, a file cannot be read or written, ``per_element`` is below 1, or no row
            can be used.
    """
    require_extra(potential.packages, potential.install)
    check_writable(out)
    at_least("--per-element", per_element, 1)
    rows = join(table, structures)
    if "split" in rows.columns:
        rows = rows[rows["split"].astype(str) == split]
    chosen = choose(rows, potential, per_element, seed)
    if not len(chosen):
        raise InputError(f"{table}: no usable row with a structure in {structures} (split {split!r})")
    crystals = read_structures(chosen)
    values = corrected_energies(potential, crystals)
    labels = chosen["formation_energy"].to_numpy(dtype=float)
    good = np.isfinite(values) & np.isfinite(labels)
    compositions = [crystal.composition for crystal, use in zip(crystals, good, strict=True) if use]
    solution = fit(values[good], labels[good], compositions)
    references = ElementReferences(solution, potential.name, potential.version)
    residual = [
        references.formation_energy(float(value), composition) - label
        for value, composition, label in zip(values[good], compositions, labels[good], strict=True)
    ]
    recipe = {
        "crystals": int(good.sum()), "split": split, "per_element": per_element, "seed": seed,
        "max_atoms": MAX_ATOMS, "mean_absolute_residual": round(float(np.nanmean(np.abs(residual))), 4),
    }  # fmt: skip
    references = replace(references, recipe=recipe)
    references.save(out)
    return references


def join(table: Path, structures: Path, exact: bool = True) -> pd.DataFrame:
    """Join a table of crystals with a table of structures.

    Args:
        table: table with the columns material_id, formula and formation_energy.
        structures: table with the columns material_id and cif.
        exact: if the table has the column formation_energy_kind, use only rows where it is ``exact``.

    Returns:
        the rows that have a formation energy and a structure, with the additional column cif.

    Raises:
        InputError: if a table cannot be read or lacks a column, or a formation energy is lower than chemistry allows.
    """
    labels = read_frame(table, ["material_id", "formula", "formation_energy"])
    cells = read_frame(structures, ["material_id", "cif"])
    labels = labels.assign(formation_energy=pd.to_numeric(labels["formation_energy"], errors="coerce"))
    check_energies(table, "formation_energy", labels["formation_energy"].to_numpy(dtype=float))
    if exact and "formation_energy_kind" in labels.columns:
        labels = labels[labels["formation_energy_kind"] == "exact"]
    labels = labels[labels["formation_energy"].notna()]
    for path, frame in ((table, labels), (structures, cells)):
        repeated = frame["material_id"][frame["material_id"].duplicated()]
        if len(repeated):
            raise InputError(
                f"{path}: column material_id: value {quoted(repeated.iloc[0])} occurs twice; each must be unique"
            )
    return labels.merge(cells[["material_id", "cif"]], on="material_id").reset_index(drop=True)


def corrected_energies(potential: Potential, crystals: Sequence[Structure]) -> Array:
    """(n,) energies of n crystals with the corrections that the potential lacks [eV/atom]; NaN if there is none."""
    values = potential.energies_per_atom(crystals).tolist()
    return np.array([potential.corrected(crystal, value) for crystal, value in zip(crystals, values, strict=True)])


def choose(rows: pd.DataFrame, potential: Potential, per_element: int, seed: int) -> pd.DataFrame:
    """Choose random rows so that each element occurs in enough of them. The rarest elements are treated first.

    Args:
        rows: table with the columns formula and cif.
        potential: the potential; crystals with elements that it does not know are left out.
        per_element: number of crystals for each element; fewer if the table has fewer.
        seed: seed of the random choice.

    Returns:
        the chosen rows, in the order of the table.
    """
    sets = [frozenset(parse_formula(formula)) for formula in rows["formula"]]
    sizes = rows["cif"].str.count(r"\n\s+[A-Z][a-z]?[0-9+-]*\s+[A-Z][a-z]?\d+\s").to_numpy()
    usable = [row for row, found in enumerate(sets) if sizes[row] <= MAX_ATOMS and not potential.unknown(found)]
    order = np.random.default_rng(seed).permutation(usable).tolist()
    holders: dict[str, list[int]] = {}
    for row in order:
        for element in sets[row]:
            holders.setdefault(element, []).append(row)
    chosen: set[int] = set()
    for element in sorted(holders, key=lambda symbol: (len(holders[symbol]), symbol)):
        have = sum(element in sets[row] for row in chosen)
        fresh = (row for row in holders[element] if row not in chosen)
        for row in fresh:
            if have >= per_element:
                break
            chosen.add(row)
            have += 1
    return rows.iloc[sorted(chosen)]


def read_structures(rows: pd.DataFrame) -> list[Structure]:
    """Read the structures in the column cif."""
    with silence():
        return [Structure.from_str(text, fmt="cif") for text in rows["cif"]]
