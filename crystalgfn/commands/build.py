"""``crystalgfn build``: find atomic positions for sampled crystals and evaluate them with a potential."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crystalgfn.commands.options import DEFAULT_POTENTIAL, Parser, add_hull, add_potential, add_references
from crystalgfn.commands.workers import add_workers, told_if_stopped

if TYPE_CHECKING:
    import argparse


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``build``: ``TABLE --out FOLDER [...]``.

    Returns:
        exit status 0, even if some crystals could not be built.

    Raises:
        InputError: if a table, folder or option cannot be used.
        SystemExit: with status 2 if the options cannot be parsed, with 0 after ``--help``.
    """
    options = _parser().parse_args(args)
    from crystalgfn.atoms import require_extra

    require_extra()
    from crystalgfn.atoms.run import Workers, kept
    from crystalgfn.atoms.tables import build_table, summary

    workers = Workers(options.jobs, options.backend, options.scheduler, options.timeout)
    with told_if_stopped(lambda: kept(options.out)):
        frame = build_table(
            options.table, options.out, options.relax, options.top, options.tries, options.seed, workers,
            options.proxy_column, options.element_references, options.distinct, options.hull,
            options.potential,
        )  # fmt: skip
    for line in summary(frame, options.out):
        print(line)
    return 0


def _parser() -> argparse.ArgumentParser:
    from crystalgfn.atoms.tables import PROXY_COLUMN

    parser = Parser(
        prog="crystalgfn build",
        description="Find atomic positions for crystals given by space group, composition and cell, and evaluate "
        "the structures with a potential.",
    )
    parser.add_argument("table", type=Path, help="CSV or parquet file with one crystal per row, such as samples.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results; a stopped run is continued")
    add_potential(parser, DEFAULT_POTENTIAL)
    parser.add_argument(
        "--relax", action="store_true", help="relax positions and cell (default: only positions, in the sampled cell)"
    )
    parser.add_argument(
        "--top",
        type=int,
        help="number of rows to build: those with the highest log_reward, or the first ones if there is no such column "
        "(default: all)",
    )
    parser.add_argument(
        "--distinct", action="store_true", help="build only the row with the highest log_reward of each reduced formula"
    )
    parser.add_argument(
        "--tries", type=int, default=12, help="arrangements of the atoms to relax in the sampled cell (default 12)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random arrangements (default 0)")
    add_workers(parser)
    add_hull(parser)
    parser.add_argument(
        "--proxy-column", help=f"column of the table to copy to the results (default: {PROXY_COLUMN}, if it exists)"
    )
    add_references(parser)
    return parser
