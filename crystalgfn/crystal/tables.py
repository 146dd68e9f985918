"""Tables of crystals: CSV and parquet files with one crystal in each row.

Columns: ``formula`` (atoms of the conventional cell, ``Na4 Cl4`` or ``Na4Cl4``), ``space_group`` (1 to 230), ``a``,
``b``, ``c`` [Å], ``alpha``, ``beta``, ``gamma`` [degrees]. Other columns are kept unchanged. Row numbers in messages
start at 1 and do not count the header.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from crystalgfn.checks import shortened
from crystalgfn.crystal.crystallography.cells import SHAPES, fits_group, systems
from crystalgfn.crystal.crystallography.wyckoff import has_room
from crystalgfn.crystal.crystals import ANGLES, LATTICE_PARAMETERS, Crystals
from crystalgfn.crystal.formation_energies import ALLOWED, FORMATION_ENERGY, TOO_LOW, too_low
from crystalgfn.crystal.formulas import parse_formula
from crystalgfn.errors import InputError
from crystalgfn.files import read_frame

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

CRYSTAL_COLUMNS = ("formula", "space_group", *LATTICE_PARAMETERS)
"""Columns that every table of crystals must have."""

VOLUME_PER_ATOM = (4.0, 900.0)
"""Range of the volume per atom of real crystals [Å³]: 4.5 (diamond is 5.7) to 896, in 57,746 of them."""

FAR = 2.0
"""A volume per atom outside of `VOLUME_PER_ATOM` by more than this factor causes a warning."""

SHORTEST_EDGE = 0.74
"""Length of the shortest chemical bond [Å], that of H2. No edge of a cell is shorter."""

CONVENTIONAL = (
    "the conventional cell and its atoms: pymatgen's conventional standard cell, with the unique axis b in monoclinic "
    "groups, and hexagonal axes in trigonal (also rhombohedral) and hexagonal groups"
)
"""What the lattice parameters and the formula must describe, for messages."""

_FORMULA_HELP = "elements and whole counts of the conventional cell, such as 'Na4 Cl4'"


@dataclass(frozen=True)
class Problem:
    """Why a row cannot be used.

    Attributes:
        column: name of the column with the problem, or several names.
        value: the value in this column, shortened if it is long.
        what: what is wrong, without the value; the text is the same for all rows with this problem.
        allowed: the allowed values.
    """

    column: str
    value: str
    what: str
    allowed: str

    @property
    def kind(self) -> str:
        """The problem without the value, to count rows by it."""
        return f"{self.column} {self.what}"

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


def read_table(
    path: str | Path,
    *,
    label: str | None = None,
    strict: bool = True,
    quantity: str | None = None,
    remedy: str = "",
) -> CrystalTable:
    """Read a table of crystals and check every row.

    A row is refused if its values are not those of a crystal, or if they contradict each other: the cell does not have
    the shape that the space group demands, the Wyckoff positions of the group cannot hold the atoms, or lengths or
    angles have another unit. If the volume per atom of some rows is far from that of real crystals, there is a warning
    with their number.

    Args:
        path: CSV (``.csv``) or parquet (``.parquet``, ``.pq``) file.
        label: name of a numeric column to read in addition to the crystals.
        strict: if true, the first row that cannot be used raises an error; otherwise, such rows are left out and the
            reasons are given in ``problems``.
        quantity: name of the property that the label gives; None if it is the name of the column. A
            ``formation_energy`` must not be lower than chemistry allows.
        remedy: what the user can do about such rows; ends the message if ``strict`` is true.

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
    _check_agreement(frame, numbers, counts, problems)
    if label is not None:
        import numpy as np

        _mark(problems, frame, label, ~np.isfinite(numbers[label]), "is missing or not a number", "a finite number")
        if FORMATION_ENERGY in (label, quantity):
            _mark(problems, frame, label, too_low(numbers[label]), TOO_LOW, ALLOWED)
    if strict:
        _refuse_first(path, problems, remedy)
    table = _usable(path, frame, numbers, counts, label, problems)
    _warn_of_volumes(table)
    return table


def _refuse_first(path: Path, problems: Sequence[Problem | None], remedy: str) -> None:
    """Raise an `InputError` for the first row with a problem."""
    first = next((problem for problem in problems if problem is not None), None)
    if first is None:
        return
    number = problems.index(first) + 1
    alike = sum(problem is not None and problem.kind == first.kind for problem in problems)
    more = f" ({alike} of {len(problems)} rows have this problem)" if alike > 1 else ""
    end = f"; {remedy}" if remedy else ""
    raise InputError(f"{path}: row {number} (counted from 1, without the header), {first}{more}{end}")


def _warn_of_volumes(table: CrystalTable) -> None:
    """Warn if the volume per atom of usable rows is far outside of that of real crystals."""
    volume = table.crystals.volume / table.crystals.n_atoms
    low, high = VOLUME_PER_ATOM
    far = ((volume < low / FAR) | (volume > high * FAR)).nonzero()[:, 0]
    if len(far):
        first = int(far[0])
        warnings.warn(
            f"{table.path}: {len(far)} of {len(table.problems)} rows have a volume per atom far outside of {low:g} to "
            f"{high:g} Å³, where real crystals lie (first: row {int(table.rows[first]) + 1}, {volume[first]:.3g} Å³); "
            "check that lengths are in Å, and that the formula counts all atoms of the conventional cell",
            stacklevel=3,
        )


def _numbers(column: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(n,) float64 values of a column; NaN if a value is not a number."""
    import numpy as np
    import pandas as pd

    return np.array(pd.to_numeric(column, errors="coerce").to_numpy(dtype="float64", na_value=np.nan))


def _mark(problems: list[Problem | None], frame: pd.DataFrame, column: str, bad: Any, what: str, allowed: str) -> None:
    """Record a problem for the rows of a mask (n,) that have no problem yet."""
    rows = [row for row in bad.nonzero()[0].tolist() if problems[row] is None]
    values = [[shortened(str(value)) for value in frame[name].array[rows]] for name in column.split(", ")]
    for row, parts in zip(rows, zip(*values, strict=True), strict=True):
        problems[row] = Problem(column, ", ".join(parts), what, allowed)


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
            problems[row] = Problem("formula", shortened(str(formula)), faults[formula], _FORMULA_HELP)
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
    angles = np.stack([numbers[name] for name in ANGLES], axis=1)
    with np.errstate(invalid="ignore"):
        small = (angles <= math.pi).all(axis=1)
    _mark(problems, frame, ", ".join(ANGLES), small, "are angles in radians", "angles in degrees, such as 90")
    with np.errstate(invalid="ignore"):
        cosines = np.cos(np.deg2rad(angles))
    square = 1 - (cosines**2).sum(1) + 2 * cosines.prod(1)
    _mark(
        problems,
        frame,
        ", ".join(ANGLES),
        ~(square > 1e-9),
        "are not angles of a cell",
        "three angles that enclose a volume",
    )


def _check_agreement(
    frame: pd.DataFrame, numbers: dict[str, Any], counts: list[dict[str, int]], problems: list[Problem | None]
) -> None:
    """Record a problem for each row whose space group, cell and formula contradict each other."""
    import numpy as np

    rows = np.array([row for row, problem in enumerate(problems) if problem is None], dtype=np.int64)
    if not len(rows):
        return
    lattice = np.stack([numbers[name] for name in LATTICE_PARAMETERS], axis=1)[rows]
    groups = numbers["space_group"][rows].astype(np.int64)

    def mark(column: str, bad: Any, what: str, allowed: str) -> None:
        every = np.zeros(len(frame), dtype=bool)
        every[rows[bad]] = True
        _mark(problems, frame, column, every, what, allowed)

    fits = fits_group(groups, lattice)
    of_group, names = systems()
    columns = ", ".join(("space_group", *LATTICE_PARAMETERS))
    for index, name in enumerate(names):
        bad = ~fits & (of_group[groups - 1] == index)
        article = "an" if name[0] == "o" else "a"
        mark(columns, bad, f"is not the cell that {article} {name} group demands ({SHAPES[name][0]})", CONVENTIONAL)
    compositions = [tuple(sorted(counts[row].values())) for row in rows.tolist()]
    pairs = list(zip(groups.tolist(), compositions, strict=True))
    room = {pair: has_room(*pair) for pair in set(pairs)}
    bad = ~np.array([room[pair] for pair in pairs], dtype=bool)
    mark("formula, space_group", bad, "has numbers of atoms that no Wyckoff positions of the group hold", CONVENTIONAL)
    n_atoms = np.array([sum(composition) for composition in compositions])
    for bad, unit in _other_units(lattice, n_atoms):
        mark("formula, a, b, c", bad, f"has lengths in {unit}, by its volume per atom", "lengths in Å")


def _other_units(lattice: Any, n_atoms: Any) -> list[tuple[Any, str]]:
    """Which cells (n, 6) have lengths in another unit than Å, if this is certain: masks (n,) and names of the units."""
    import numpy as np

    crystals = Crystals.from_arrays([1] * len(lattice), [{}] * len(lattice), lattice)
    volume = crystals.volume.numpy() / n_atoms
    low, high = VOLUME_PER_ATOM
    with np.errstate(over="ignore"):
        nanometres = (volume * 1e3 >= low) & (volume * 1e3 <= high)
        picometres = (volume * 1e-6 >= low) & (volume * 1e-6 <= high)
    # A model without a bound on the volume can make such cells in Å. An edge that no cell has proves the table's unit.
    if not (nanometres & (lattice[:, :3].min(axis=1) < SHORTEST_EDGE)).any():
        nanometres[:] = False
    return [(nanometres, "nanometres"), (picometres, "picometres")]


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
