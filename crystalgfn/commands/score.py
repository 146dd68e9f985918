"""``crystalgfn score``: add a proxy's prediction and its uncertainty to a table of crystals."""

from __future__ import annotations

from pathlib import Path

from crystalgfn.commands.options import Parser


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``score``: ``TABLE --proxy NAME --out FILE [--weights FILE]``.

    Returns:
        exit status 0, even if there is no prediction for some rows.

    Raises:
        InputError: if the table, the proxy or the output cannot be used.
        SystemExit: with status 2 if the options cannot be parsed, with 0 after ``--help``.
    """
    parser = Parser(
        prog="crystalgfn score",
        description="Add a proxy's prediction, and its uncertainty if it has one, to a table of crystals.",
    )
    parser.add_argument("table", type=Path, help="CSV or parquet file with one crystal per row")
    parser.add_argument("--proxy", required=True, help="name of a registered proxy, such as FormationEnergy")
    parser.add_argument(
        "--out", type=Path, required=True, help="table to write; its ending .csv or .parquet sets the format"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        help="weights of the proxy, as written by train-proxy (default: the shipped file, if there is one)",
    )
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
