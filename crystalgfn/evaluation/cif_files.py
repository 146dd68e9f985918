"""Structures that were built for samples: a table, its CIF files, and the samples that they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.formulas import parse_formula
from crystalgfn.crystal.keys import composition_keys
from crystalgfn.errors import InputError
from crystalgfn.evaluation.pools import NOT_PROPERTIES, Pool, numbers, property_columns
from crystalgfn.files import read_frame
from crystalgfn.gflownet.keys import key_array

if TYPE_CHECKING:
    import pandas as pd

TABLE = "structures.csv"
"""The table in a folder of structures."""

FOLDER = "cif"
"""Where ``crystalgfn build`` puts the file of each crystal, named by the column ``id``."""

SHOWN = ("chgnet_formation_energy", "energy_above_hull", "space_group_relaxed", "min_distance_relaxed")
"""Columns of ``crystalgfn build`` that are shown; of other tables all columns of numbers are."""


@dataclass(frozen=True)
class Structures:
    """Structures of samples.

    Attributes:
        path: the table.
        files: for each of its n rows the CIF file, None without.
        of_sample: (k,) row of the table, from 0, that belongs to each usable sample, -1 without.
        properties: columns of numbers that the samples do not have, (n,) each, NaN where there is none.
        missing: CIF files that the table names and that do not exist.
        unmatched: numbers, from 1, of the rows with a file that belong to no sample.
    """

    path: Path
    files: list[Path | None]
    of_sample: NDArray[np.int64]
    properties: dict[str, NDArray[np.float64]]
    missing: list[str]
    unmatched: list[int]

    def row(self, index: int) -> dict[str, float | None]:
        """The properties of a row, None where there is no number; all None for the row -1."""
        values = {name: float(column[index]) if index >= 0 else np.nan for name, column in self.properties.items()}
        return {name: value if np.isfinite(value) else None for name, value in values.items()}

    def content(self, sample: int) -> tuple[str, bytes] | None:
        """Name and content of the CIF file of a sample, None without.

        Raises:
            InputError: if the file cannot be read.
        """
        row = int(self.of_sample[sample])
        path = self.files[row] if row >= 0 else None
        if path is None:
            return None
        try:
            return path.name, path.read_bytes()
        except OSError as error:
            raise InputError(f"--structures: {path}: cannot be read: {error}") from None

    def summary(self) -> dict[str, Any]:
        """What ``metrics.json`` says of them."""
        return {
            "file": self.path.name,
            "rows": len(self.files),
            "with_cif": sum(file is not None for file in self.files),
            "samples_with_cif": int((self.of_sample >= 0).sum()),
            "missing_files": self.missing,
            "unmatched_rows": self.unmatched,
        }


def read_structures(path: Path, samples: Pool) -> Structures:
    """Read a table of structures and find the samples they belong to.

    With a column ``row``, the number from 1 of a row in the table of samples, a structure belongs to that sample, if
    formula and space group agree. Without it, to the sample with its formula and space group, if only one distinct
    sample has them. Cells are not compared, since relaxing changes them. Of several structures of a sample the first
    one with a file counts.

    Args:
        path: what ``crystalgfn build`` wrote, a folder with `TABLE`; or any table with the columns ``formula`` and
            ``space_group``, and either one that names CIF files, relative to the table, or ``id``, for ``cif/ID.cif``.
        samples: the samples.

    Raises:
        InputError: if there is no such table, it cannot be read, or it lacks a column.
    """
    table = path / TABLE if path.is_dir() else path
    if not table.is_file():
        raise InputError(f"--structures: {path}: {f'has no {TABLE}' if path.is_dir() else 'no such file'}")
    frame = read_frame(table)
    lacking = [column for column in ("formula", "space_group") if column not in frame.columns]
    if lacking:
        raise InputError(f"--structures: {table}: missing column(s) {', '.join(lacking)}")
    files, missing = _files(frame, table)
    has_file = np.array([file is not None for file in files])
    of_sample = _match(frame, has_file, samples)
    shown = [name for name in SHOWN if name in frame.columns] or property_columns(frame)
    own = set(samples.table.frame.columns)
    used = set(of_sample.tolist())
    return Structures(
        path=table,
        files=files,
        of_sample=of_sample,
        properties={
            name: numbers(frame[name])
            for name in shown
            if name not in own and name not in (*NOT_PROPERTIES, "row", "id")
        },
        missing=missing,
        unmatched=[row + 1 for row in has_file.nonzero()[0].tolist() if row not in used],
    )


def _files(frame: pd.DataFrame, table: Path) -> tuple[list[Path | None], list[str]]:
    """The CIF file of each row, and the names of those that do not exist.

    Raises:
        InputError: if no column names files and there is no ``id``.
    """
    for column in frame.columns:
        cells = [cell.strip() if isinstance(cell, str) else "" for cell in frame[column]]
        if any(cells) and all(cell.lower().endswith(".cif") for cell in cells if cell):
            named = [table.parent / cell if cell else None for cell in cells]
            gone = [cell for cell, file in zip(cells, named, strict=True) if file is not None and not file.is_file()]
            return [file if file is not None and file.is_file() else None for file in named], gone
    if "id" not in frame.columns:
        raise InputError(
            f"--structures: {table}: no column names CIF files: its filled cells must all end in .cif, or a column id "
            f"must name files {FOLDER}/ID.cif"
        )
    # A crystal that could not be built has a row and no file.
    paths = [table.parent / FOLDER / f"{name}.cif" for name in frame["id"].astype(str)]
    return [file if file.is_file() else None for file in paths], []


def _match(frame: pd.DataFrame, has_file: NDArray[np.bool_], samples: Pool) -> NDArray[np.int64]:
    """(k,) row of the table for each usable sample, -1 without; see `read_structures`.

    Args:
        frame: n structures.
        has_file: (n,) whether there is a file.
        samples: the samples.
    """
    keys, readable = _composition_hashes(frame)
    rows = (has_file & readable).nonzero()[0]
    of_sample = np.full(len(samples), -1, dtype=np.int64)
    if "row" in frame.columns:
        places = {row: place for place, row in enumerate(samples.table.rows.tolist())}
        wanted = np.nan_to_num(numbers(frame["row"])[rows], nan=0).tolist()
        for row, number in zip(rows.tolist(), wanted, strict=True):
            place = places.get(int(number) - 1, -1)
            if place >= 0 and of_sample[place] < 0 and samples.compositions[place] == keys[row]:
                of_sample[place] = row
        return of_sample
    # Compositions of more than one distinct sample do not tell which one is meant.
    first = np.unique(samples.objects, return_index=True)[1]
    distinct, n = np.unique(samples.compositions[first], return_counts=True)
    row_of: dict[int, int] = {}
    for row in rows.tolist():
        row_of.setdefault(int(keys[row]), row)
    for place in np.isin(samples.compositions, distinct[n == 1]).nonzero()[0].tolist():
        of_sample[place] = row_of.get(int(samples.compositions[place]), -1)
    return of_sample


def _composition_hashes(frame: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(n,) hashes as in `Pool.compositions`, and (n,) whether formula and space group of a row can be read."""
    groups = np.nan_to_num(numbers(frame["space_group"]), nan=0).astype(np.int64)
    counts: list[dict[str, int]] = []
    for formula in frame["formula"].tolist():
        try:
            counts.append(parse_formula(formula) if isinstance(formula, str) else {})
        except InputError:
            counts.append({})
    crystals = Crystals.from_arrays(groups.tolist(), counts, [[1.0, 1.0, 1.0, 90.0, 90.0, 90.0]] * len(frame))
    readable = np.array([bool(atoms) for atoms in counts]) & (groups > 0)
    return key_array(composition_keys(crystals)), readable
