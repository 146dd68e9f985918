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
"""Name of the table in a folder of structures."""

FOLDER = "cif"
"""Folder in which ``crystalgfn build`` writes the CIF file of each crystal, named by the column ``id``."""

SHOWN = (
    "formation_energy_relaxed", "chgnet_formation_energy", "energy_above_hull", "space_group_relaxed",
    "min_distance_relaxed",
)  # fmt: skip
"""Columns of ``crystalgfn build`` that are shown; the second is the first one's name in older versions. If a table has
none of them, all columns of numbers are shown."""


@dataclass(frozen=True)
class Structures:
    """Structures of samples.

    Attributes:
        path: the table.
        files: CIF file of each of the n rows of the table; None for a row without a file.
        of_sample: (k,) row of the table, from 0, that belongs to each usable sample; -1 if there is none.
        properties: columns of numbers that the samples do not have, (n,) each; NaN if there is no number.
        missing: CIF files that the table names and that do not exist.
        unmatched: numbers, from 1, of the rows that have a file and belong to no sample.
    """

    path: Path
    files: list[Path | None]
    of_sample: NDArray[np.int64]
    properties: dict[str, NDArray[np.float64]]
    missing: list[str]
    unmatched: list[int]

    def row(self, index: int) -> dict[str, float | None]:
        """The properties of a row; None if there is no number. For row -1, all properties are None."""
        values = {name: float(column[index]) if index >= 0 else np.nan for name, column in self.properties.items()}
        return {name: value if np.isfinite(value) else None for name, value in values.items()}

    def content(self, sample: int) -> tuple[str, bytes] | None:
        """Name and content of the CIF file of a sample; None if there is no file.

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
        """The entry in ``metrics.json``."""
        return {
            "file": self.path.name,
            "rows": len(self.files),
            "with_cif": sum(file is not None for file in self.files),
            "samples_with_cif": int((self.of_sample >= 0).sum()),
            "missing_files": self.missing,
            "unmatched_rows": self.unmatched,
        }


def read_structures(path: Path, samples: Pool) -> Structures:
    """Read a table of structures and find the samples that they belong to.

    A column ``row`` holds the number, from 1, of a row in the table of samples. If there is one, a structure belongs to
    that sample if formula and space group agree. If there is no such column, a structure belongs to the sample with
    its formula and space group, provided that only one distinct sample has them. Cells are not compared, because
    relaxation changes them. If a sample has several structures, the first one with a file is used.

    Args:
        path: output of ``crystalgfn build``, a folder with `TABLE`; or any table with the columns ``formula`` and
            ``space_group``, and with either a column that names CIF files, relative to the table, or a column ``id``,
            for ``cif/ID.cif``.
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
    """The CIF file of each row, None if there is none, and the names of the files that do not exist.

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
            f"--structures: {table}: no column names CIF files; all filled cells of such a column must end in .cif, "
            f"or a column id must name files {FOLDER}/ID.cif"
        )
    # A crystal that could not be built has a row but no file.
    paths = [table.parent / FOLDER / f"{name}.cif" for name in frame["id"].astype(str)]
    return [file if file.is_file() else None for file in paths], []


def _match(frame: pd.DataFrame, has_file: NDArray[np.bool_], samples: Pool) -> NDArray[np.int64]:
    """(k,) row of the table for each usable sample; -1 if there is none. See `read_structures`.

    Args:
        frame: n structures.
        has_file: (n,) whether a structure has a file.
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
    # If several distinct samples share a composition, it does not determine the sample.
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
