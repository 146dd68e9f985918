"""The table that a property network is trained on, and its split into training, validation and test rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from crystalgfn.checks import quoted
from crystalgfn.crystal.crystals import Crystals
from crystalgfn.crystal.formulas import reduced_counts
from crystalgfn.crystal.tables import CrystalTable, read_table
from crystalgfn.errors import InputError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class DataConfig:
    """The table and which of its rows are used.

    Attributes:
        path: CSV or parquet file with the columns formula, space_group, a, b, c, alpha, beta, gamma and the label.
        label: column with the property to learn.
        split: column with train, val or test; if the table has no such column, rows are split by reduced formula.
        bad_rows: what to do with rows that cannot be read: stop at the first one (``error``), or skip and count them
            (``skip``).
        volume_per_atom: lowest and highest volume per atom [Å³] of a training row.
        label_range: lowest and highest label of a training row; no limits if null.
    """

    path: Path
    label: str
    split: str = "split"
    bad_rows: Literal["error", "skip"] = "error"
    volume_per_atom: tuple[float, float] = (4.0, 150.0)
    label_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class SplitTable:
    """The usable rows of a table, by split.

    Attributes:
        table: the table with its usable rows.
        rows: indices of the usable rows of each split.
        dropped: number of rows that were left out, by reason.
        split_by: how the rows were split, in words.
    """

    table: CrystalTable
    rows: dict[str, Tensor]
    dropped: dict[str, int] = field(default_factory=dict)
    split_by: str = ""


def split_table(data: DataConfig, seed: int, property_name: str | None = None) -> SplitTable:
    """Read a table and split its usable rows.

    Validation and test rows are never filtered by volume or label, so that errors are not underestimated.

    Args:
        data: the table and which of its rows are used.
        seed: seed of the split, if the table has none.
        property_name: name of the property that the label gives; None if it is the name of the column.

    Raises:
        InputError: if the table cannot be used or a split has no rows.
    """
    table = read_table(
        data.path,
        label=data.label,
        strict=data.bad_rows == "error",
        quantity=property_name,
        remedy="--data.bad_rows skip leaves such rows out and counts them",
    )
    dropped: Counter[str] = Counter(problem.kind for problem in table.problems if problem is not None)
    if len(table.rows) < 4:
        raise InputError(
            f"{data.path}: {len(table.rows)} usable rows; at least 4 are needed (left out: {dict(dropped) or 'none'})"
        )
    if data.split in table.frame.columns:
        names = table.frame[data.split].iloc[table.rows.tolist()].tolist()
        unknown = sorted({str(name) for name in names if name not in SPLITS})
        if unknown:
            raise InputError(
                f"{data.path}: column {data.split}: unknown split(s) {', '.join(map(quoted, unknown[:5]))}; "
                f"allowed: {', '.join(SPLITS)}"
            )
        split_by = f"column {data.split!r} of the table"
    else:
        names = split_by_formula(table.crystals, seed)
        split_by = f"80/10/10 by reduced formula with seed {seed}"
    rows = {name: torch.tensor([i for i, n in enumerate(names) if n == name], dtype=torch.int64) for name in SPLITS}
    assert table.labels is not None
    rows["train"] = _filter(data, table.crystals, table.labels, rows["train"], dropped)
    for name in ("train", "val"):
        if not len(rows[name]):
            raise InputError(f"{data.path}: no usable row in the split {name!r} (left out: {dict(dropped) or 'none'})")
    return SplitTable(table, rows, dict(dropped), split_by)


def split_by_formula(crystals: Crystals, seed: int) -> list[str]:
    """The split of each crystal: 80 % of the reduced formulas are train, 10 % val and 10 % test.

    Raises:
        InputError: if there are fewer than 4 reduced formulas.
    """
    keys = reduced_formulas(crystals)
    unique = sorted(set(keys))
    if len(unique) < 4:
        raise InputError(f"{len(unique)} different reduced formulas; a split into {', '.join(SPLITS)} needs at least 4")
    held_out = max(1, round(0.1 * len(unique)))
    order = torch.randperm(len(unique), generator=torch.Generator().manual_seed(seed)).tolist()
    place = {unique[index]: number for number, index in enumerate(order)}
    return ["val" if place[k] < held_out else "test" if place[k] < 2 * held_out else "train" for k in keys]


def reduced_formulas(crystals: Crystals) -> list[tuple[tuple[int, int], ...]]:
    """A key for each crystal, equal for crystals of the same reduced formula: pairs of Z - 1 and count."""
    rows = reduced_counts(crystals.counts).tolist()
    return [tuple((z, count) for z, count in enumerate(row) if count) for row in rows]


def _filter(data: DataConfig, crystals: Crystals, labels: Tensor, rows: Tensor, dropped: Counter[str]) -> Tensor:
    """Training rows within the limits; the others are counted in ``dropped``."""
    lowest, highest = data.volume_per_atom
    volume = (crystals.volume / crystals.n_atoms)[rows]
    good = (volume >= lowest) & (volume <= highest)
    if not bool(good.all()):
        dropped[f"training rows with a volume per atom outside of {lowest:g} to {highest:g} Å³"] += int((~good).sum())
    rows = rows[good]
    if data.label_range is not None:
        lowest, highest = data.label_range
        good = (labels[rows] >= lowest) & (labels[rows] <= highest)
        if not bool(good.all()):
            dropped[f"training rows with a label outside of {lowest:g} to {highest:g}"] += int((~good).sum())
        rows = rows[good]
    return rows
