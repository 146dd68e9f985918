"""``crystalgfn chgnet-references``: elemental references for formation energies from CHGNet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

    from crystalgfn.atoms.potentials.references import References

MAX_SITES = 24
"""Largest primitive cell that is used: small ones are cheap, and there are enough of them."""


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``chgnet-references``: ``TABLE STRUCTURES --out FILE [...]``.

    Returns:
        exit status 0.

    Raises:
        InputError: for tables or an output that cannot be used.
        SystemExit: with status 2 for options that cannot be parsed, with 0 after ``--help``.
    """
    import argparse

    parser = argparse.ArgumentParser(
        prog="crystalgfn chgnet-references", description="Fit elemental references for formation energies from CHGNet."
    )
    parser.add_argument("table", type=Path, help="table with the columns material_id, formula, formation_energy")
    parser.add_argument("structures", type=Path, help="table with the columns material_id, cif")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--split", default="train", help="rows of the column 'split' to use, if there is one")
    parser.add_argument(
        "--per-element", type=int, default=60, help="at least so many crystals an element, if there are"
    )
    parser.add_argument(
        "--method", choices=["fit", "elements"], default="fit", help="fit to all, or elemental crystals"
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses the crystals")
    options = parser.parse_args(args)
    references = make(
        options.table, options.structures, options.out, options.split, options.per_element, options.method, options.seed
    )
    recipe = references.recipe
    print(f"{options.out}: {len(references.energies)} elements from {recipe['crystals']} crystals, "
          f"mean absolute residual {recipe['mean_absolute_residual']:.3f} eV/atom")  # fmt: skip
    return 0


def make(table: Path, structures: Path, out: Path, split: str, per_element: int, method: str, seed: int) -> References:
    """Choose crystals, evaluate CHGNet, fit, and write the references.

    Args:
        table: crystals with the columns material_id, formula, formation_energy [eV/atom], optionally split and
            formation_energy_kind, of which only ``exact`` is used.
        structures: the columns material_id, cif.
        out: JSON file.
        split: which rows; the method ``elements`` takes all.
        per_element: crystals for each element, as far as there are.
        method: a key of `crystalgfn.atoms.potentials.references.METHODS`.
        seed: of the choice.

    Returns:
        the references as written.

    Raises:
        InputError: if something cannot be read or written, or no row is left.
    """
    import numpy as np

    from crystalgfn.errors import InputError
    from crystalgfn.atoms import require_extra
    from crystalgfn.atoms.potentials.chgnet import MODEL, energies
    from crystalgfn.atoms.potentials.references import METHODS, References
    from crystalgfn.crystal.tables import check_writable

    require_extra()
    check_writable(out)
    if per_element < 1:
        raise InputError(f"--per-element: {per_element} is not allowed; 1 or more")
    # Few elements have an exact label, and theirs are near zero anyway.
    elemental = method == "elements"
    rows = join(table, structures, exact=not elemental)
    if "split" in rows.columns and not elemental:
        rows = rows[rows["split"].astype(str) == split]
    chosen = choose(rows, per_element, seed, elemental)
    if not len(chosen):
        raise InputError(f"{table}: no usable row with a structure in {structures} (split {split!r})")
    crystals = read_structures(chosen)
    values = energies(crystals)
    labels = chosen["formation_energy"].to_numpy(dtype=float)
    good = np.isfinite(values) & np.isfinite(labels)
    compositions = [crystal.composition for crystal, use in zip(crystals, good, strict=True) if use]
    solution = METHODS[method](values[good], labels[good], compositions)
    references = References(solution)
    residual = [
        references.formation_energy(float(value), composition) - label
        for value, composition, label in zip(values[good], compositions, labels[good], strict=True)
    ]
    recipe = {
        "method": method, "crystals": int(good.sum()), "split": split, "per_element": per_element, "seed": seed,
        "max_sites": MAX_SITES, "mean_absolute_residual": round(float(np.nanmean(np.abs(residual))), 4),
    }  # fmt: skip
    references = References(solution, MODEL, recipe)
    references.save(out)
    return references


def join(table: Path, structures: Path, exact: bool = True) -> pd.DataFrame:
    """Rows of a table that have a formation energy and a structure, with the column cif.

    Args:
        table: the columns material_id, formula, formation_energy.
        structures: the columns material_id, cif.
        exact: of a table with the column formation_energy_kind, only rows where it is ``exact``.

    Raises:
        InputError: if a table cannot be read or lacks a column.
    """
    import pandas as pd

    from crystalgfn.crystal.tables import read_frame

    labels = read_frame(table, ["material_id", "formula", "formation_energy"])
    cells = read_frame(structures, ["material_id", "cif"])
    if exact and "formation_energy_kind" in labels.columns:
        labels = labels[labels["formation_energy_kind"] == "exact"]
    labels = labels.assign(formation_energy=pd.to_numeric(labels["formation_energy"], errors="coerce"))
    labels = labels[labels["formation_energy"].notna()]
    return labels.merge(cells[["material_id", "cif"]], on="material_id", validate="one_to_one").reset_index(drop=True)


def choose(rows: pd.DataFrame, per_element: int, seed: int, elemental: bool = False) -> pd.DataFrame:
    """Few rows that hold each element often enough: rare elements are served first, each with random crystals.

    Args:
        rows: table with formula and cif.
        per_element: crystals for each element, as far as there are.
        seed: of the choice.
        elemental: take all elemental crystals and nothing else.
    """
    import numpy as np

    from crystalgfn.atoms.potentials.chgnet import FORBIDDEN
    from crystalgfn.crystal.tables import parse_formula

    sets = [frozenset(parse_formula(formula)) for formula in rows["formula"]]
    sizes = rows["cif"].str.count(r"\n\s+[A-Z][a-z]?[0-9+-]*\s+[A-Z][a-z]?\d+\s").to_numpy()
    usable = [row for row, elements in enumerate(sets) if sizes[row] <= MAX_SITES and not elements & FORBIDDEN]
    if elemental:
        return rows.iloc[[row for row in usable if len(sets[row]) == 1]]
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
    """Structures of the column cif."""
    from pymatgen.core import Structure

    from crystalgfn.atoms.potentials.chgnet import silence

    with silence():
        return [Structure.from_str(text, fmt="cif") for text in rows["cif"]]
