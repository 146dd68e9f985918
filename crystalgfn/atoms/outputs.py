"""Output files of ``crystalgfn build``: CIF files, one extxyz file and one table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalgfn.crystal.formulas import count_rows, parse_formula
from crystalgfn.files import atomic_path, write_frame

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

    from crystalgfn.atoms.potentials.references import ElementReferences
    from crystalgfn.proxies.hull import ConvexHull, ReferenceHull

TABLE = "structures.csv"
EXTXYZ = "structures.extxyz"
CIFS = "cif"

COLUMNS = (
    "id", "row", "formula", "space_group", "space_group_built", "space_group_symmetric", "space_group_relaxed",
    "symmetry", "positions", "energy_built", "energy_relaxed", "formation_energy_built",
    "formation_energy_relaxed", "energy_above_hull", "has_competitor", "volume_change", "min_distance_built",
    "min_distance_ratio_built", "min_distance_relaxed", "min_distance_ratio_relaxed", "tries", "proposed",
    "too_close", "failed", "relaxation_failures", "steps", "converged", "settled", "seconds", "cpu_seconds", "reason",
)  # fmt: skip
"""Columns of the table; columns that do not apply to a run are left out. Energies in eV/atom, distances in Å."""


def final_structure(result: Mapping[str, Any]) -> Structure | None:
    """The relaxed structure of a result; the built one if it was not relaxed; None if there is no structure."""
    from pymatgen.core import Structure

    content = result.get("structure_relaxed", result.get("structure_built"))
    return None if content is None else Structure.from_dict(content)


def make_table(
    results: Sequence[Mapping[str, Any]],
    inputs: pd.DataFrame,
    references: ElementReferences,
    hull: ConvexHull | ReferenceHull,
    relaxed: bool,
) -> pd.DataFrame:
    """Make the table of results, with one row for each crystal.

    Args:
        results: n results of `crystalgfn.atoms.build.build`.
        inputs: n rows with id, row, formula and space_group, and the columns to copy from the user's table.
        references: elemental references.
        hull: convex hull of known crystals.
        relaxed: whether structures were relaxed.

    Returns:
        a table with the columns of `COLUMNS` that apply. The copied columns stand before ``reason``.
    """
    import pandas as pd

    rows = []
    judged: list[tuple[dict[str, Any], float]] = []
    for result, given in zip(results, inputs.to_dict("records"), strict=True):
        row: dict[str, Any] = {str(key): value for key, value in given.items()}
        row |= {key: value for key, value in result.items() if not key.startswith("structure_")}
        structure = final_structure(result)
        if structure is not None:
            composition = structure.composition
            for stage in ("built", "relaxed"):
                if f"energy_{stage}" in result:
                    row[f"formation_energy_{stage}"] = references.formation_energy(
                        result[f"energy_{stage}"], composition
                    )
            best = row.get("formation_energy_relaxed", row.get("formation_energy_built"))
            if "energy_relaxed" in result:
                row["symmetry"] = symmetry(structure, int(given["space_group"]), parse_formula(given["formula"]))
            missing = references.missing(composition)
            if missing and not row["reason"]:
                row["reason"] = f"no formation energy: no reference for {', '.join(missing)}"
            if best is not None and not missing and not math.isnan(best):
                judged.append((row, best))
        rows.append(row)
    _compare(judged, hull)
    extra = [column for column in inputs.columns if column not in COLUMNS]
    dropped = set() if relaxed else {c for c in COLUMNS if c.endswith(("relaxed", "symmetric")) or c in _RELAXED_ONLY}
    columns = [column for column in COLUMNS[:-1] if column not in dropped] + [*extra, "reason"]
    frame = pd.DataFrame(rows).reindex(columns=columns)
    for column in frame.columns:
        if column.startswith("space_group") or column in _WHOLE:
            frame[column] = pd.to_numeric(frame[column]).astype("Int64")
    frame["has_competitor"] = frame["has_competitor"].astype("boolean")
    return frame


def _compare(judged: Sequence[tuple[dict[str, Any], float]], hull: ConvexHull | ReferenceHull) -> None:
    """Add the energy above the hull to rows, or the reason why there is none.

    Args:
        judged: n rows of the table, each with its formation energy [eV/atom].
        hull: convex hull of known crystals.
    """
    from crystalgfn.proxies.hull import has_competitor, hull_energies

    counts = count_rows(parse_formula(row["formula"]) for row, _ in judged)
    levels = hull_energies(counts, hull)
    columns = (judged, levels.tolist(), has_competitor(counts, levels).tolist(), hull.refused(counts))
    for (row, energy), level, competes, refusal in zip(*columns, strict=True):
        if refusal:
            row["reason"] = row["reason"] or f"no energy above the hull: {refusal}"
        else:
            row["energy_above_hull"] = energy - level
            row["has_competitor"] = competes


def symmetry(structure: Structure, number: int, counts: Mapping[str, int]) -> str:
    """Compare the symmetry of a structure with the sampled space group.

    Args:
        structure: the structure.
        number: number of the sampled space group.
        counts: atoms of each element in the conventional cell of that group.

    Returns:
        ``sampled`` if spglib finds the sampled group. Otherwise ``higher`` or ``lower``, depending on the number of
        symmetry operations per atom; it is larger for a larger point group and for a smaller primitive cell.
        ``other`` if this number is the same, or if spglib finds no symmetry.
    """
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

    from crystalgfn.atoms.build import SYMPREC
    from crystalgfn.crystal.crystallography.positions import positions

    try:
        analyzer = SpacegroupAnalyzer(structure, symprec=SYMPREC)
        found = analyzer.get_space_group_number()
        primitive = analyzer.find_primitive()
    except (SymmetryUndeterminedError, TypeError):  # spglib finds nothing if atoms coincide
        return "other"
    if found == number:
        return "sampled"
    # The multiplicity of the general position is the number of symmetry operations of the conventional cell.
    asked = positions(number)[0].multiplicity / sum(counts.values())
    have = len(positions(found)[0].rotations) / len(primitive if primitive is not None else structure)
    return "other" if math.isclose(have, asked) else "higher" if have > asked else "lower"


_WHOLE = ("row", "tries", "proposed", "too_close", "failed", "relaxation_failures", "steps")
_RELAXED_ONLY = (
    "symmetry",
    "volume_change",
    "relaxation_failures",
    "steps",
    "converged",
    "settled",
)


def write(out: Path, frame: pd.DataFrame, results: Sequence[Mapping[str, Any]]) -> int:
    """Write the table, the CIF files and the extxyz file.

    Args:
        out: existing folder.
        frame: n rows, as `make_table` returns them.
        results: the n results of `crystalgfn.atoms.build.build` for these rows.

    Returns:
        the number of structures.
    """
    (out / CIFS).mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = frame.to_dict("records")  # type: ignore[assignment]
    structures = [(row, final_structure(result)) for row, result in zip(rows, results, strict=True)]
    for row, structure in structures:
        if structure is not None:
            write_cif(structure, out / CIFS / f"{row['id']}.cif", row["id"])
    _write_extxyz(out / EXTXYZ, [(row, structure) for row, structure in structures if structure is not None])
    write_frame(frame, out / TABLE)
    return sum(structure is not None for _, structure in structures)


def write_cif(structure: Structure, path: Path, name: str) -> None:
    """Write a structure as a CIF file: the conventional cell in the standard setting, with atoms on ideal positions.

    The symmetry is the one that spglib finds with `SYMPREC`. The setting is spglib's standard setting (the first Hall
    number of the group); a comment in the file names it. If spglib finds no symmetry, the file lists all atoms.

    Args:
        structure: the structure.
        path: the file to write.
        name: name of the crystal, for the first line of the file.
    """
    from pymatgen.io.cif import CifWriter
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    from crystalgfn.atoms.build import SYMPREC
    from crystalgfn.atoms.potentials.quiet import silence

    with silence():
        try:
            analyzer = SpacegroupAnalyzer(structure, symprec=SYMPREC)
            cell = analyzer.get_refined_structure()
            data = analyzer.get_symmetry_dataset()
            setting = (
                f"# space group {data.number} ({data.international}), standard setting: "
                f"Hall number {data.hall_number}, {data.hall}"
            )
            text = str(CifWriter(cell, symprec=1e-3, refine_struct=False))
        except (TypeError, ValueError):  # spglib finds no symmetry if atoms nearly coincide
            setting, text = "# no symmetry found: all atoms are listed", str(CifWriter(structure))
    with atomic_path(path) as temporary:
        temporary.write_text(f"# {name}\n{setting}\n{text}")


def _write_extxyz(path: Path, structures: Sequence[tuple[dict[str, Any], Structure]]) -> None:
    """Write all primitive cells to one file, together with the main columns of the table."""
    from ase.io import write as ase_write
    from pymatgen.io.ase import AseAtomsAdaptor

    frames = []
    for row, structure in structures:
        atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
        keys = ("id", "formula", "space_group", "space_group_relaxed", "formation_energy_relaxed", "energy_above_hull")
        atoms.info = {key: row[key] for key in keys if key in row and row[key] == row[key]}  # without NaN
        frames.append(atoms)
    with atomic_path(path) as temporary:
        if frames:
            ase_write(str(temporary), frames, format="extxyz")
