"""Place atoms in all crystals of a table or a batch, and evaluate the structures with a potential."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalgfn.atoms import outputs, require_extra
from crystalgfn.atoms.outputs import TABLE
from crystalgfn.atoms.potentials import DEFAULT, Potential, make
from crystalgfn.atoms.potentials.references import ElementReferences
from crystalgfn.atoms.run import Workers, results, run
from crystalgfn.checks import at_least, listed, quoted
from crystalgfn.crystal.formulas import reduced_counts, symbol_counts
from crystalgfn.crystal.tables import read_table
from crystalgfn.errors import InputError
from crystalgfn.files import checksum
from crystalgfn.proxies.energy_above_hull import SHIPPED_HULL
from crystalgfn.proxies.hull import open_hull

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

    from crystalgfn.crystal.crystals import Crystals

PROXY_COLUMN = "formation_energy"
"""Column of the samples that is copied to the results by default, if the table has it."""


def build_table(
    table: Path,
    out: Path,
    relax: bool,
    top: int | None,
    tries: int,
    seed: int,
    workers: Workers,
    proxy_column: str | None = None,
    element_references: Path | None = None,
    distinct: bool = False,
    hull: Path | None = None,
    potential: str = DEFAULT,
) -> pd.DataFrame:
    """Build the crystals of a table, and write structures and results to a folder.

    Args:
        table: CSV or parquet file.
        out: folder for the results.
        relax: whether to relax positions and cell.
        top: number of rows to build: those with the highest ``log_reward``, or the first ones if there is no such
            column; None for all rows.
        tries: number of arrangements that are relaxed in the sampled cell.
        seed: seed of the random choices.
        workers: where crystals are built.
        proxy_column: column of the table to copy to the results, with ``proxy_`` before its name; None copies
            `PROXY_COLUMN` if the table has it.
        element_references: file of elemental references of the potential; None for the shipped ones.
        distinct: whether to use only the first row of each reduced formula, after sorting by ``log_reward``.
        hull: the hull of known phases, see `crystalgfn.proxies.hull.open_hull`; None for the shipped one.
        potential: the potential, see `crystalgfn.atoms.potentials.make`.

    Returns:
        the table of results that was written.

    Raises:
        InputError: if a setting is not allowed, or a file or folder cannot be used.
    """
    if top is not None:
        at_least("--top", top, 1)
    at_least("--tries", tries, 1)
    workers.check()
    chosen = make(potential)
    require_extra(chosen.packages, chosen.install)
    references = ElementReferences.load(chosen, element_references)
    common = {"tries": tries, "seed": seed, "relax": relax, "potential": chosen.name}
    inputs, tasks = read_tasks(table, top, proxy_column, common, distinct)
    known = open_hull(hull or SHIPPED_HULL)
    usable = [task for task in tasks if "counts" in task]
    settings = common | {"table": checksum(table)[:16]} | versions(chosen)
    done = {result["id"]: result for result in run(usable, settings, out, workers)}
    found = [done.get(task["id"], task) for task in tasks]
    frame = outputs.make_table(found, inputs, references, known, relax)
    outputs.write(out, frame, found)
    return frame


@dataclass(frozen=True)
class BuiltCrystals:
    """Crystals for which atomic positions were searched.

    Attributes:
        frame: one row for each crystal, with the columns in docs/structures.md. ``reason`` says why a crystal was not
            built or not relaxed.
        structures: one entry for each row: the relaxed structure; the structure in the sampled cell if it was not
            relaxed; None if it was not built.
    """

    frame: pd.DataFrame
    structures: list[Structure | None]

    def __len__(self) -> int:
        return len(self.frame)

    def to_frame(self) -> pd.DataFrame:
        """One row for each crystal, including those that were not built."""
        return self.frame

    def to_structures(self) -> list[Structure]:
        """The structures of the crystals that were built, in the order of the rows."""
        return [structure for structure in self.structures if structure is not None]


def build_crystals(
    crystals: Crystals,
    relax: bool = True,
    tries: int = 4,
    seed: int = 0,
    jobs: int = 1,
    timeout: float = 600.0,
    hull: Path | None = None,
    potential: str = DEFAULT,
) -> BuiltCrystals:
    """Place atoms in a batch of crystals with a potential. Needs ``crystalgfn[structures]``.

    Args:
        crystals: n crystals.
        relax: whether to relax positions and cell.
        tries: number of arrangements that are relaxed in the sampled cell.
        seed: seed of the random choices.
        jobs: number of crystals built at the same time, each in a process of its own.
        timeout: time limit for each crystal [s].
        hull: the hull of known phases, see `crystalgfn.proxies.hull.open_hull`; None for the shipped one.
        potential: the potential, such as ``chgnet`` or ``sevennet:7net-0``.

    Returns:
        the structures and a table of results.

    Raises:
        InputError: if a package is missing, a setting is not allowed, or a file cannot be used.
    """
    import pandas as pd

    require_extra()
    at_least("tries", tries, 1)
    chosen = make(potential)
    require_extra(chosen.packages, chosen.install)
    references = ElementReferences.load(chosen)
    known = open_hull(hull or SHIPPED_HULL)
    names = [f"row-{row:06d}" for row in range(1, len(crystals) + 1)]
    tasks = [
        task | {"id": name, "tries": tries, "seed": seed, "relax": relax, "potential": chosen.name}
        for name, task in zip(names, plain_crystals(crystals), strict=True)
    ]
    done = {result["id"]: result for result in results(tasks, Workers(jobs, timeout=timeout), progress="build")}
    found = [done[name] for name in names]
    inputs = pd.DataFrame(
        {
            "id": names,
            "row": range(1, len(crystals) + 1),
            "formula": crystals.formulas(),
            "space_group": crystals.space_group.tolist(),
        }
    )
    frame = outputs.make_table(found, inputs, references, known, relax)
    return BuiltCrystals(frame, [outputs.final_structure(result) for result in found])


def versions(potential: Potential) -> dict[str, str]:
    """Versions of the packages of a potential, for the settings of a folder; results depend on them."""
    return {f"version of {name}": version(name) for name in potential.packages}


def plain_crystals(crystals: Crystals) -> list[dict[str, Any]]:
    """The space_group, counts by symbol and lattice of each crystal as plain Python values, as a `Task` needs them."""
    columns = (crystals.space_group.tolist(), symbol_counts(crystals.counts), crystals.lattice.tolist())
    return [
        {"space_group": group, "counts": counts, "lattice": lattice}
        for group, counts, lattice in zip(*columns, strict=True)
    ]


def read_tasks(
    table: Path, top: int | None, proxy_column: str | None, common: dict[str, Any], distinct: bool = False
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Read a table and make the tasks for its rows.

    Args:
        table: CSV or parquet file.
        top: number of rows, see `build_table`; None for all rows.
        proxy_column: column to copy, see `build_table`.
        common: settings of every task.
        distinct: whether to use only the first row of each reduced formula.

    Returns:
        a table with id, row (counted from 1), formula, space_group and the copied columns; and a list with the task of
        each row. If a row cannot be used, its entry has only ``id`` and ``reason``.

    Raises:
        InputError: if the table cannot be read or has no column ``proxy_column``.
    """
    import pandas as pd

    data = read_table(table, strict=False)
    frame = data.frame.reset_index(drop=True)
    if proxy_column is not None and proxy_column not in frame.columns:
        present = listed(frame.columns)
        raise InputError(f"--proxy-column: {table} has no column {quoted(proxy_column)}; it has: {present}")
    order = np.arange(len(frame))
    if "log_reward" in frame.columns:
        rewards = pd.to_numeric(frame["log_reward"], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
        order = np.argsort(-np.nan_to_num(rewards, nan=-np.inf), kind="stable")
    place = {row: index for index, row in enumerate(data.rows.tolist())}
    if distinct:
        order = _first_of_each(order, reduced_counts(data.crystals.counts).tolist(), place)
    chosen = order[:top].tolist()
    inputs = pd.DataFrame(
        {
            "id": [f"row-{row + 1:06d}" for row in chosen],
            "row": [row + 1 for row in chosen],
            "formula": frame["formula"].iloc[chosen].tolist(),
            "space_group": pd.to_numeric(frame["space_group"].iloc[chosen], errors="coerce").tolist(),
        }
    )
    passed = proxy_column or (PROXY_COLUMN if PROXY_COLUMN in frame.columns else None)
    for column, name in ((passed, f"proxy_{passed}"), ("log_reward", "log_reward")):
        if column in frame.columns:
            inputs[name] = pd.to_numeric(frame[column].iloc[chosen], errors="coerce").tolist()
    plain = plain_crystals(data.crystals)
    tasks: list[dict[str, Any]] = []
    for row, name in zip(chosen, inputs["id"], strict=True):
        if row not in place:
            tasks.append({"id": name, "reason": f"not built: {data.problems[row]}"})
            continue
        tasks.append(plain[place[row]] | {"id": name} | common)
    return inputs, tasks


def _first_of_each(order: Any, formulas: list[list[int]], place: dict[int, int]) -> Any:
    """Keep the first row of each reduced formula, in the given order, and all rows that are not crystals."""
    seen: set[tuple[int, ...]] = set()
    kept = []
    for row in order.tolist():
        if row in place:
            key = tuple(formulas[place[row]])
            if key in seen:
                continue
            seen.add(key)
        kept.append(row)
    return np.array(kept, dtype=np.int64)


def summary(frame: pd.DataFrame, out: Path) -> list[str]:
    """Lines that summarise a table of results, for the terminal."""
    built = frame["energy_built"].notna()
    lines = [f"{out / TABLE}: {int(built.sum())} of {len(frame)} crystals built"]
    if "energy_relaxed" in frame.columns:
        relaxed = frame["energy_relaxed"].notna()
        kept = (frame["symmetry"] == "sampled").sum()
        higher = (frame["symmetry"] == "higher").sum()
        lines[0] += f", {int(relaxed.sum())} relaxed, {kept} of these in the sampled group, {higher} in a higher one"
    competes = frame["has_competitor"].fillna(False).astype(bool)
    above = frame.loc[competes, "energy_above_hull"]
    if len(above):
        lines.append(
            f"energy above hull: {int((above < 0.1).sum())} below 0.1 eV/atom, best {above.min():.3f}, "
            f"median {above.median():.3f} eV/atom"
        )
    alone = frame[frame["energy_above_hull"].notna() & ~competes]
    if len(alone):
        names = ", ".join(f"{row.id} {str(row.formula).replace(' ', '')}" for row in alone.head(5).itertuples())
        lines.append(
            f"warning: for {len(alone)} crystals the hull has no competing compound, only the pure elements; they are "
            f"not counted above: {names}{', ...' if len(alone) > 5 else ''} (has_competitor is False)"
        )
    reasons = frame.loc[frame["reason"] != "", ["id", "reason"]]
    lines += [f"  {row.id}: {row.reason}" for row in reasons.head(5).itertuples()]
    if len(reasons) > 5:
        lines.append(f"  ... and {len(reasons) - 5} more, see the column 'reason'")
    return lines
