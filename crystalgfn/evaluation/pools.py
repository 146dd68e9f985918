"""Tables of crystals for the report: the crystals, their properties, and the rows that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from crystalgfn.crystal.crystals import LATTICE_PARAMETERS
from crystalgfn.crystal.keys import composition_keys, crystal_keys
from crystalgfn.crystal.tables import CRYSTAL_COLUMNS, CrystalTable, read_table
from crystalgfn.errors import InputError
from crystalgfn.evaluation.checks import cell_volumes
from crystalgfn.gflownet.keys import key_array
from crystalgfn.gflownet.metrics import top_k_rows
from crystalgfn.gflownet.proxies import predict_in_batches

if TYPE_CHECKING:
    import pandas as pd

    from crystalgfn.gflownet.proxies.base import Proxy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DERIVED = {"density": "g/cm³", "volume_per_atom": "Å³", "atoms": "", "elements": ""}
"""Properties that follow from the crystal alone, with their units. They are used if a table has no such column."""

SAMPLER_COLUMNS = ("log_reward", "log_pf")
"""Columns that describe how a crystal was sampled."""

NOT_PROPERTIES = (*CRYSTAL_COLUMNS, *SAMPLER_COLUMNS)
"""Columns that are not properties."""


@dataclass(frozen=True)
class Pool:
    """The crystals of one table.

    Attributes:
        name: name of the table in the report.
        table: the table; all arrays below are for its k usable rows.
        counts: (k, 94) atoms of each element.
        groups: (k,) numbers of the space groups.
        lattice: (k, 6) a, b, c [Å], alpha, beta, gamma [degrees].
        objects: (k,) hashes, equal exactly for the same crystal.
        compositions: (k,) hashes, equal exactly for the same composition of the cell in the same space group.
        properties: name to (k,) values; NaN if there is none.
        log_reward: (k,) log R; None if there is no such column.
        log_pf: (k,) log p(x); None if there is no such column.
        top: indices, among the usable rows, of the best distinct crystals by log R, best first; None if there is no
            log R.
    """

    name: str
    table: CrystalTable
    counts: Ints
    groups: Ints
    lattice: Floats
    objects: Ints
    compositions: Ints
    properties: dict[str, Floats] = field(default_factory=dict)
    log_reward: Floats | None = None
    log_pf: Floats | None = None
    top: Ints | None = None

    def __len__(self) -> int:
        return len(self.groups)

    def column(self, name: str) -> pd.Series[Any]:
        """A column of the table, unchanged, for the usable rows."""
        return self.table.frame[name].iloc[self.table.rows.numpy()]

    def row_numbers(self, rows: Ints) -> list[int]:
        """Numbers in the file, from 1 without the header, of some usable rows."""
        return [int(row) + 1 for row in self.table.rows.numpy()[rows]]


def read_pool(name: str, path: Path, top: int) -> Pool:
    """Read a table of crystals; ``table.problems`` describes the rows that cannot be used.

    Args:
        name: name of the table in the report.
        path: CSV or parquet file.
        top: number of the best crystals to find.

    Raises:
        InputError: if the file cannot be read, a column is missing, or no row is usable.
    """
    table = read_table(path, strict=False)
    if len(table.rows) == 0:
        raise InputError(f"{path}: none of the {len(table.problems)} rows can be used; row 1, {table.problems[0]}")
    crystals = table.crystals
    objects = key_array(crystal_keys(crystals))
    sampler = {column: numeric(table, column) for column in SAMPLER_COLUMNS if column in table.frame.columns}
    best = None
    if "log_reward" in sampler:
        # Rows without log R rank last; they do not belong to the best.
        log_reward = np.nan_to_num(sampler["log_reward"], nan=-np.inf)
        rows = top_k_rows(torch.from_numpy(log_reward), torch.from_numpy(objects), top).numpy()
        best = rows[np.isfinite(sampler["log_reward"][rows])]
    return Pool(
        name=name,
        table=table,
        counts=crystals.counts.numpy(),
        groups=crystals.space_group.numpy(),
        lattice=crystals.lattice.numpy(),
        objects=objects,
        compositions=key_array(composition_keys(crystals)),
        log_reward=sampler.get("log_reward"),
        log_pf=sampler.get("log_pf"),
        top=best,
    )


def numeric(table: CrystalTable, column: str) -> Floats:
    """(k,) numbers in a column of the usable rows; NaN for a cell without a finite number."""
    return np.asarray(numbers(table.frame[column])[table.rows.numpy()], dtype=np.float64)


def numbers(column: pd.Series[Any]) -> Floats:
    """(n,) numbers in a column; NaN for a cell without a finite number."""
    import pandas as pd

    values = np.array(pd.to_numeric(column, errors="coerce").to_numpy(dtype="float64", na_value=np.nan))
    values[~np.isfinite(values)] = np.nan
    return values


def property_columns(frame: pd.DataFrame) -> list[str]:
    """Names of the columns in which every filled cell is a number, without `NOT_PROPERTIES` and booleans."""
    import pandas as pd

    found = []
    for column in frame.columns:
        if column in NOT_PROPERTIES or pd.api.types.is_bool_dtype(frame[column]):
            continue
        cells = frame[column]
        filled = cells[cells.notna() & (cells.astype(str).str.strip() != "")]
        if len(filled) and pd.to_numeric(filled, errors="coerce").notna().all():
            found.append(str(column))
    return found


def choose_properties(pools: Sequence[Pool], asked: Sequence[str] | None, proxy: Proxy | None) -> list[str]:
    """Names of the properties to compare.

    Args:
        pools: the pools; only the first one is used.
        asked: names that the user gave; None for the property columns of the first pool, the proxy's property and
            `DERIVED`.
        proxy: predicts its property for tables without such a column.

    Raises:
        InputError: if a name in ``asked`` is not one of these columns and properties.
    """
    columns = property_columns(pools[0].table.frame.iloc[pools[0].table.rows.numpy()])
    predicted = [proxy.name] if proxy is not None else []
    if asked is None:
        return list(dict.fromkeys([*columns, *predicted, *DERIVED]))
    known = [*columns, *predicted, *DERIVED]
    for name in asked:
        if name not in known:
            problem = "holds text" if name in pools[0].table.frame.columns else "does not exist"
            raise InputError(
                f"--properties: column {name!r} {problem} in {pools[0].table.path}; allowed: "
                f"{', '.join(dict.fromkeys(known))}"
            )
    return list(dict.fromkeys([*asked, *predicted]))


def add_properties(pool: Pool, names: Sequence[str], proxy: Proxy | None) -> list[str]:
    """Fill ``pool.properties`` from the columns of the table, else from `DERIVED`, else with predictions of the proxy.

    Properties that have none of these are left out.

    Returns:
        names of the properties that the proxy predicted.
    """
    predicted = []
    for name in names:
        if name in pool.table.frame.columns:
            values = numeric(pool.table, name)
            if np.isfinite(values).any():
                pool.properties[name] = values
        elif name in DERIVED:
            pool.properties[name] = derived(pool, name)
        elif proxy is not None and name == proxy.name:
            pool.properties[name] = predict(pool, proxy)
            predicted.append(name)
    return predicted


def derived(pool: Pool, name: str) -> Floats:
    """(k,) values of a property in `DERIVED`."""
    atoms = pool.counts.sum(axis=1)
    if name == "atoms":
        return atoms.astype(np.float64)
    if name == "elements":
        return (pool.counts > 0).sum(axis=1).astype(np.float64)
    volume = cell_volumes(pool.lattice)
    if name == "volume_per_atom":
        return np.asarray(volume / atoms, dtype=np.float64)
    from crystalgfn.proxies.density import Density

    return predict(pool, Density())


def predict(pool: Pool, proxy: Proxy) -> Floats:
    """(k,) property of each crystal, predicted by a proxy; NaN if the prediction is not finite."""
    values: Floats = predict_in_batches(proxy, pool.table.crystals).value.double().cpu().numpy()
    return np.where(np.isfinite(values), values, np.nan)


def problems_of(table: CrystalTable) -> list[dict[str, Any]]:
    """Why rows cannot be used: one entry per kind of problem, with the numbers of its rows (from 1, without header)."""
    kinds: dict[tuple[str, str], dict[str, Any]] = {}
    for number, problem in enumerate(table.problems, start=1):
        if problem is not None:
            entry = kinds.setdefault(
                (problem.column, problem.what),
                {
                    "column": problem.column,
                    "reason": problem.what,
                    "allowed": problem.allowed,
                    "first_value": problem.value,
                    "count": 0,
                    "rows": [],
                },
            )
            entry["count"] += 1
            entry["rows"].append(number)
    return list(kinds.values())


def problem_lines(problems: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines for the terminal about rows that cannot be used, for what `problems_of` returned."""
    lines = []
    for problem in problems:
        rows = ", ".join(map(str, problem["rows"][:5])) + (", ..." if problem["count"] > 5 else "")
        lines.append(
            f"  not used: {problem['count']:,} (row {rows}): column {problem['column']} {problem['reason']}, "
            f"first {problem['first_value']!r}"
        )
    return lines


def refused_rows(table: CrystalTable, check: str) -> list[int]:
    """Numbers, from 1, of the rows that cannot be used because they fail one of the checks of validity.

    Args:
        table: the table.
        check: ``positive_volume``, ``lattice_system`` or ``wyckoff``; no row is refused because of another check.
    """
    group, cell = {"space_group"}, set(LATTICE_PARAMETERS)
    blamed = [set() if problem is None else set(problem.column.split(", ")) for problem in table.problems]
    is_refused = {
        "positive_volume": lambda columns: bool(columns) and columns <= cell,
        "lattice_system": lambda columns: columns == group | cell,
        "wyckoff": lambda columns: columns == group | {"formula"},
    }.get(check, lambda columns: False)
    return [number for number, columns in enumerate(blamed, start=1) if is_refused(columns)]
