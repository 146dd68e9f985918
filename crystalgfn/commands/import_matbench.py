"""``crystalgfn import-matbench``: write a MatBench data set as a table of crystals."""

from __future__ import annotations

from pathlib import Path

from crystalgfn.commands.options import Parser


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``import-matbench``: ``NAME --out TABLE [--file FILE]``.

    Returns:
        exit status 0, even if some rows could not be used.

    Raises:
        InputError: if the data set is unknown, or a file or option cannot be used.
        SystemExit: with status 2 if the options cannot be parsed, with 0 after ``--help``.
    """
    parser = Parser(prog="crystalgfn import-matbench", description="Write a MatBench data set as a table of crystals.")
    parser.add_argument("name", help="name of the data set, such as matbench_mp_e_form or matbench_mp_gap")
    parser.add_argument(
        "--out", type=Path, required=True, help="table to write; its ending .csv or .parquet sets the format"
    )
    parser.add_argument(
        "--file", type=Path, help="file of the data set (.json.gz); without it, matminer downloads the data set"
    )
    parser.add_argument(
        "--symprec", type=float, default=0.1, help="tolerance of the symmetry search in Å (default 0.1)"
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="number of processes that search for symmetry (default 1)"
    )
    options = parser.parse_args(args)
    # Imported here because importing torch takes seconds, and other commands do not need it.
    from crystalgfn.crystal.matbench import import_matbench

    result = import_matbench(options.name, options.out, options.file, options.symprec, options.workers, _print)
    kept = result.rows - sum(result.failures.values())
    print(f"{options.out}: {kept} of {result.rows} rows, label {result.label}")
    for reason, count in result.failures.items():
        print(f"  left out: {count} rows, {reason}")
    return 0


def _print(line: str) -> None:
    print(line, flush=True)  # without a delay in pipes, because large data sets take an hour
