"""``crystalgfn build``: put atoms into sampled crystals, and evaluate them with CHGNet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


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
    from crystalgfn.atoms.tables import build_table, summary

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

    from crystalgfn.atoms.tables import PROXY_COLUMN

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
