"""Tables of crystals: CSV and parquet files with one crystal in each row.

Columns: ``formula`` (atoms of the conventional cell, ``Na4 Cl4`` or ``Na4Cl4``), ``space_group`` (1 to 230), ``a``,
``b``, ``c`` [Å], ``alpha``, ``beta``, ``gamma`` [degrees]. Other columns are kept unchanged. Row numbers in messages
start at 1 and do not count the header.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from crystalgfn.crystal.crystals import LATTICE_PARAMETERS, Crystals
from crystalgfn.crystal.formulas import parse_formula
from crystalgfn.errors import InputError
from crystalgfn.files import read_frame

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

CRYSTAL_COLUMNS = ("formula", "space_group", *LATTICE_PARAMETERS)
"""Columns that every table of crystals must have."""

_FORMULA_HELP = "elements and whole counts of the conventional cell, such as 'Na4 Cl4'"


@dataclass(frozen=True)
class Problem:
    """Why a row cannot be used.

    Attributes:
        column: name of the column with the problem, or several names.
        value: the value in this column.
        what: what is wrong, without the value; the text is the same for all rows with this problem.
        allowed: the allowed values.
    """

    column: str
    value: str
    what: str
    allowed: str

    def __str__(self) -> str:
        return f"column {self.column}: value {self.value!r} {self.what}; allowed: {self.allowed}"


@dataclass(frozen=True)
class CrystalTable:
    """A table as read from a file, and the crystals of its usable rows.

    Attributes:
        path: the file.
        frame: all rows and columns. Values of a CSV file stay text, so that they can be written again unchanged.
        rows: (k,) int64, indices of the usable rows, from 0.
        crystals: the k crystals of the usable rows.
        labels: (k,) float64, the label column of the usable rows; None if no label was asked for.
        problems: one entry for each row of the frame; None for a usable row.
    """

    path: Path
    frame: pd.DataFrame
    rows: torch.Tensor
    crystals: Crystals
    labels: torch.Tensor | None
    problems: list[Problem | None]


def read_table(path: str | Path, *, label: str | None = None, strict: bool = True) -> CrystalTable:
    """Read a table of crystals and check every row.

    Args:
        path: CSV (``.csv``) or parquet (``.parquet``, ``.pq``) file.
        label: name of a numeric column to read in addition to the crystals.
        strict: if true, the first row that cannot be used raises an error; otherwise, such rows are left out and the
            reasons are given in ``problems``.

    Returns:
        the table; if ``strict`` is false, it may have no usable row.

    Raises:
        InputError: if the file cannot be read or is empty, a column is missing, or ``strict`` is true and a row cannot
            be used.
    """
    path = Path(path)
    needed = [*CRYSTAL_COLUMNS, *([label] if label is not None else [])]
    frame = read_frame(path, needed)
    problems: list[Problem | None] = [None] * len(frame)
    numbers = {column: _numbers(frame[column]) for column in needed if column != "formula"}
    counts = _check_formulas(frame, problems)
    _check_cells(frame, numbers, problems)
    if label is not None:
        import numpy as np

        _mark(problems, frame, label, ~np.isfinite(numbers[label]), "is missing or not a number", "a finite number")
    if strict:
        for number, problem in enumerate(problems, start=1):
            if problem is not None:
                raise InputError(f"{path}: row {number} (counted from 1, without the header), {problem}")
    return _usable(path, frame, numbers, counts, label, problems)


def _numbers(column: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(n,) float64 values of a column; NaN if a value is not a number."""
    import numpy as np
    import pandas as pd

    return np.array(pd.to_numeric(column, errors="coerce").to_numpy(dtype="float64", na_value=np.nan))


def _mark(problems: list[Problem | None], frame: pd.DataFrame, column: str, bad: Any, what: str, allowed: str) -> None:
    """Record a problem for the rows of a mask (n,) that have no problem yet."""
    names = column.split(", ")
    for row in bad.nonzero()[0].tolist():
        if problems[row] is None:
            value = ", ".join(str(frame[name].iloc[row]) for name in names)
            problems[row] = Problem(column, value, what, allowed)


def _check_formulas(frame: pd.DataFrame, problems: list[Problem | None]) -> list[dict[str, int]]:
    """Counts of each row; if a formula cannot be used, its problem is recorded and its counts are empty."""
    known: dict[object, dict[str, int]] = {}
    faults: dict[object, str] = {}
    counts = []
    for row, formula in enumerate(frame["formula"].tolist()):
        if formula not in known:
            known[formula] = {}
            try:
                if not isinstance(formula, str):
                    raise InputError("is missing or not a text")
                known[formula] = parse_formula(formula)
            except InputError as error:
                faults[formula] = str(error)
        if formula in faults:
            problems[row] = Problem("formula", str(formula), faults[formula], _FORMULA_HELP)
        counts.append(known[formula])
    return counts


def _check_cells(frame: pd.DataFrame, numbers: dict[str, Any], problems: list[Problem | None]) -> None:
    """Record a problem for each row with an impossible space group or cell."""
    import numpy as np

    group = numbers["space_group"]
    with np.errstate(invalid="ignore"):
        bad = ~((group >= 1) & (group <= 230) & (group == np.floor(group)))
    _mark(problems, frame, "space_group", bad, "is not a space group", "a whole number from 1 to 230")
    for name in LATTICE_PARAMETERS[:3]:
        bad = ~(np.isfinite(numbers[name]) & (numbers[name] > 0))
        _mark(problems, frame, name, bad, "is not a length", "a positive, finite length in Å")
    for name in LATTICE_PARAMETERS[3:]:
        bad = ~((numbers[name] > 0) & (numbers[name] < 180))
        _mark(problems, frame, name, bad, "is not a cell angle", "an angle between 0 and 180 degrees, both excluded")
    with np.errstate(invalid="ignore"):
        cosines = np.cos(np.deg2rad(np.stack([numbers[name] for name in LATTICE_PARAMETERS[3:]], axis=1)))
    square = 1 - (cosines**2).sum(1) + 2 * cosines.prod(1)
    names = ", ".join(LATTICE_PARAMETERS[3:])
    _mark(problems, frame, names, ~(square > 1e-9), "are not angles of a cell", "three angles that enclose a volume")


def _usable(
    path: Path,
    frame: pd.DataFrame,
    numbers: dict[str, Any],
    counts: list[dict[str, int]],
    label: str | None,
    problems: list[Problem | None],
) -> CrystalTable:
    """The table, with the crystals and labels of the rows without a problem."""
    rows = torch.tensor([row for row, problem in enumerate(problems) if problem is None], dtype=torch.int64)
    lattice = torch.stack([torch.from_numpy(numbers[name]) for name in LATTICE_PARAMETERS], dim=1)
    group = torch.from_numpy(numbers["space_group"])[rows].long()
    crystals = Crystals.from_arrays(group.tolist(), [counts[row] for row in rows.tolist()], lattice[rows].tolist())
    labels = torch.from_numpy(numbers[label])[rows] if label is not None else None
    return CrystalTable(path, frame, rows, crystals, labels, problems)
