"""``crystalgfn import-matbench``: a MatBench data set as a table of crystals."""

from __future__ import annotations

from pathlib import Path


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``import-matbench``: ``NAME --out TABLE [--file FILE]``.

    Returns:
        exit status 0, also when some rows could not be used.

    Raises:
        InputError: for an unknown data set, or files that cannot be used.
        SystemExit: with status 2 for options that cannot be parsed, with 0 after ``--help``.
    """
    import argparse

    parser = argparse.ArgumentParser(
        prog="crystalgfn import-matbench", description="Write a MatBench data set as a table of crystals."
    )
    parser.add_argument("name", help="data set, such as matbench_mp_e_form or matbench_mp_gap")
    parser.add_argument("--out", type=Path, required=True, help="table to write, CSV or parquet by its ending")
    parser.add_argument("--file", type=Path, help="the data set's .json.gz; downloaded with matminer if left out")
    parser.add_argument("--symprec", type=float, default=0.1, help="tolerance of the symmetry search in Å (0.1)")
    parser.add_argument("--workers", type=int, default=1, help="processes that search for symmetry (1)")
    options = parser.parse_args(args)
    # Imported here: importing torch takes seconds, and other commands do without.
    from crystalgfn.crystal.matbench import import_matbench

    result = import_matbench(options.name, options.out, options.file, options.symprec, options.workers, _print)
    kept = result.rows - sum(result.failures.values())
    print(f"{options.out}: {kept} of {result.rows} rows, label {result.label}")
    for reason, count in result.failures.items():
        print(f"  left out: {count} rows, {reason}")
    return 0


def _print(line: str) -> None:
    print(line, flush=True)  # at once, also into a pipe: large data sets take an hour
