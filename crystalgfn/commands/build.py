"""``crystalgfn build``: put atoms into sampled crystals, and judge them with CHGNet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    import pandas as pd

    from crystalgfn.atoms.run import Workers

PROXY_COLUMN = "formation_energy"
"""Column of the samples that is passed on where there is no other wish."""


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``build``: ``TABLE --out FOLDER [...]``.

    Returns:
        exit status 0, also when some crystals could not be built.

    Raises:
        InputError: for a table, folder or option that cannot be used.
        SystemExit: with status 2 for options that cannot be parsed, with 0 after ``--help``.
    """
    options = _parser().parse_args(args)
    from crystalgfn.atoms import require_extra

    require_extra()
    from crystalgfn.atoms.run import Workers

    workers = Workers(options.jobs, options.backend, options.scheduler, options.timeout)
    frame = build_table(
        options.table, options.out, options.relax == "chgnet", options.top, options.tries, options.seed, workers,
        options.reference, options.proxy_column, options.chgnet_references, options.distinct,
    )  # fmt: skip
    for line in summary(frame, options.out):
        print(line)
    return 0


def _parser() -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser(
        prog="crystalgfn build",
        description="Put atoms into crystals given by space group, composition and cell, and judge them with CHGNet.",
    )
    parser.add_argument("table", type=Path, help="CSV or parquet file with one crystal a row, such as samples.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder for the structures; a run that stopped goes on")
    parser.add_argument("--relax", choices=["chgnet", "none"], default="none", help="relax positions and cell")
    parser.add_argument("--top", type=int, help="only the rows with the highest log_reward, or the first ones")
    parser.add_argument(
        "--distinct", action="store_true", help="only the first row of each reduced formula, by log_reward"
    )
    parser.add_argument("--tries", type=int, default=12, help="arrangements relaxed in the sampled cell (default 12)")
    parser.add_argument("--seed", type=int, default=0, help="of the random arrangements (default 0)")
    parser.add_argument("--jobs", type=int, default=1, help="crystals at the same time (default 1)")
    parser.add_argument("--backend", default="loky", help="loky (this machine), dask or ray")
    parser.add_argument("--scheduler", help="address of a Dask or Ray cluster; a local one if left out")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for each crystal (default 600)")
    parser.add_argument(
        "--reference", type=Path, help="table of known crystals (formula, formation_energy) for the hull"
    )
    parser.add_argument("--proxy-column", help=f"column of the table to pass on; {PROXY_COLUMN} if there is one")
    parser.add_argument("--chgnet-references", type=Path, help="elemental references; the shipped ones if left out")
    return parser


def build_table(
    table: Path,
    out: Path,
    relax: bool,
    top: int | None,
    tries: int,
    seed: int,
    workers: Workers,
    reference: Path | None = None,
    proxy_column: str | None = None,
    chgnet_references: Path | None = None,
    distinct: bool = False,
) -> pd.DataFrame:
    """Build the crystals of a table and write structures and results into a folder.

    Args:
        table: CSV or parquet file.
        out: folder.
        relax: whether to relax positions and cell.
        top: number of rows: those with the highest ``log_reward`` if there is such a column, else the first ones; None
            takes all.
        tries: arrangements that are relaxed in the sampled cell.
        seed: of the random choices.
        workers: where the work is done.
        reference: table of known crystals.
        proxy_column: column of the table to pass on, with ``proxy_`` before its name.
        chgnet_references: elemental references.
        distinct: whether to take only the first row of each reduced formula, in that order.

    Returns:
        the table of results as written.

    Raises:
        InputError: if something cannot be read, written or used.
    """
    from crystalgfn.errors import InputError
    from crystalgfn.atoms import outputs
    from crystalgfn.atoms.hull import Reference
    from crystalgfn.atoms.potentials.references import SHIPPED, References
    from crystalgfn.atoms.run import file_hash, run

    for name, value in (("--top", top), ("--tries", tries)):
        if value is not None and value < 1:
            raise InputError(f"{name}: {value} is not allowed; 1 or more")
    workers.check()
    references = References.load(chgnet_references or SHIPPED)
    inputs, tasks = read_tasks(table, top, proxy_column, {"tries": tries, "seed": seed, "relax": relax}, distinct)
    hull = Reference(reference) if reference is not None else None
    usable = [task for task in tasks if "counts" in task]
    settings = {"table": file_hash(table), "tries": tries, "seed": seed, "relax": relax}
    done = {result["id"]: result for result in run(usable, settings, out, workers)}
    results = [done.get(task["id"], task) for task in tasks]
    frame = outputs.make_table(results, inputs, references, hull, relax)
    outputs.write(out, frame, results)
    return frame


def read_tasks(
    table: Path, top: int | None, proxy_column: str | None, common: dict[str, Any], distinct: bool = False
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The rows to build.

    Returns:
        a table with id, row (counted from 1), formula, space_group and the columns passed on, and for each of its rows
        the task, or for a row that cannot be used its id and the reason.
    """
    import numpy as np
    import pandas as pd

    from crystalgfn.crystal.crystallography.elements import element_symbols
    from crystalgfn.errors import InputError
    from crystalgfn.crystal.tables import read_table

    data = read_table(table, strict=False)
    frame = data.frame.reset_index(drop=True)
    if proxy_column is not None and proxy_column not in frame.columns:
        present = ", ".join(str(c) for c in frame.columns)
        raise InputError(f"--proxy-column: {table} has no column {proxy_column!r}; it has: {present}")
    order = np.arange(len(frame))
    if "log_reward" in frame.columns:
        rewards = pd.to_numeric(frame["log_reward"], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
        order = np.argsort(-np.nan_to_num(rewards, nan=-np.inf), kind="stable")
    place = {row: index for index, row in enumerate(data.rows.tolist())}
    if distinct:
        order = _first_of_each(order, data.crystals.counts.numpy(), place)
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
    symbols = element_symbols()
    tasks: list[dict[str, Any]] = []
    for row, name in zip(chosen, inputs["id"], strict=True):
        if row not in place:
            tasks.append({"id": name, "reason": f"not built: {data.problems[row]}"})
            continue
        crystals, index = data.crystals, place[row]
        counts = {symbols[z]: n for z, n in enumerate(crystals.counts[index].tolist()) if n}
        task = {
            "id": name,
            "space_group": int(crystals.space_group[index]),
            "counts": counts,
            "lattice": crystals.lattice[index].tolist(),
        }
        tasks.append(task | common)
    return inputs, tasks


def _first_of_each(order: Any, counts: Any, place: dict[int, int]) -> Any:
    """Of rows in some order, the first of each reduced formula; rows that are no crystals stay."""
    import numpy as np

    seen: set[tuple[int, ...]] = set()
    kept = []
    for row in order.tolist():
        if row in place:
            own = counts[place[row]]
            key = tuple((own // np.gcd.reduce(own)).tolist())
            if key in seen:
                continue
            seen.add(key)
        kept.append(row)
    return np.array(kept, dtype=np.int64)


def summary(frame: pd.DataFrame, out: Path) -> list[str]:
    """What to tell about a table of results."""
    from crystalgfn.atoms.outputs import TABLE

    built = frame["energy_built"].notna()
    lines = [f"{out / TABLE}: {int(built.sum())} of {len(frame)} crystals built"]
    if "energy_relaxed" in frame.columns:
        relaxed = frame["energy_relaxed"].notna()
        kept = (frame["symmetry"] == "sampled").sum()
        higher = (frame["symmetry"] == "higher").sum()
        lines[0] += f", {int(relaxed.sum())} relaxed, {kept} of these in the sampled group, {higher} in a higher one"
    if "energy_above_hull" in frame.columns and frame["energy_above_hull"].notna().any():
        above = frame["energy_above_hull"]
        lines.append(
            f"energy above hull: {int((above < 0.1).sum())} below 0.1 eV/atom, best {above.min():.3f}, "
            f"median {above.median():.3f} eV/atom"
        )
    reasons = frame.loc[frame["reason"] != "", ["id", "reason"]]
    lines += [f"  {row.id}: {row.reason}" for row in reasons.head(5).itertuples()]
    if len(reasons) > 5:
        lines.append(f"  ... and {len(reasons) - 5} more, see the column 'reason'")
    return lines
