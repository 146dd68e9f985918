"""``crystalgfn score``: add a proxy's property, and its uncertainty, to any table of crystals."""

from __future__ import annotations

from pathlib import Path


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``score``: ``TABLE --proxy NAME --out FILE [--weights FILE]``.

    Returns:
        exit status 0, also when some rows could not be scored.

    Raises:
        InputError: for a table, proxy or output that cannot be used.
        SystemExit: with status 2 for options that cannot be parsed, with 0 after ``--help``.
    """
    import argparse

    parser = argparse.ArgumentParser(prog="crystalgfn score", description="Add a proxy's property to a table.")
    parser.add_argument("table", type=Path, help="CSV or parquet file with one crystal a row")
    parser.add_argument("--proxy", required=True, help="name of a registered proxy, such as FormationEnergy")
    parser.add_argument("--out", type=Path, required=True, help="table to write, CSV or parquet by its ending")
    parser.add_argument("--weights", type=Path, help="weights for the proxy, as train-proxy writes them")
    options = parser.parse_args(args)

    from crystalgfn.proxies.scoring import REASON, score

    frame, name, unit = score(options.table, options.proxy, options.out, options.weights)
    reasons = frame.loc[frame[REASON] != "", REASON]
    print(f"{options.out}: {len(frame) - len(reasons)} of {len(frame)} rows have {name}{f' [{unit}]' if unit else ''}")
    for row, reason in list(reasons.items())[:5]:
        print(f"  row {int(str(row)) + 1}: {reason}")
    if len(reasons) > 5:
        print(f"  ... and {len(reasons) - 5} more, see the column {REASON!r}")
    return 0
