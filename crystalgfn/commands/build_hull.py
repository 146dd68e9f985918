"""``crystalgfn build-hull``: make the convex hull of formation energies from a table of reference phases."""

from __future__ import annotations

from pathlib import Path

from crystalgfn.commands.options import Parser, Words


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``build-hull``: ``TABLE --out hull.pt`` and options.

    Returns:
        exit status 0.

    Raises:
        InputError: if the table or an option cannot be used.
        SystemExit: with status 2 if the options cannot be parsed, with 0 after ``--help``.
    """
    parser = Parser(
        prog="crystalgfn build-hull",
        description="Make the convex hull of formation energies from a table of reference phases.",
    )
    parser.add_argument(
        "table", type=Path, help="CSV or parquet file with the formula and the formation energy of each phase"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="hull file to write (.pt); a model card (.md) and metrics (.json) get the same name",
    )
    parser.add_argument(
        "--label", default="formation_energy", help="column with the formation energy in eV/atom (default %(default)s)"
    )
    parser.add_argument(
        "--elements", nargs="+", action=Words, help="elements of the hull (default: all elements in the table)"
    )
    parser.add_argument(
        "--max_elements", type=int, default=5, help="largest number of elements in a composition (default %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the random compositions that check the file (default %(default)s)"
    )
    options = parser.parse_args(args)

    # Imported here: importing torch takes seconds.
    from crystalgfn.proxies.hull.build import build_hull

    # The card is meant to be shared, so it names files without the folders of this machine.
    shown = " ".join(Path(word).name if Path(word).is_absolute() else word for word in args)
    build_hull(**vars(options), command=f"crystalgfn build-hull {shown}", log=_print)
    return 0


def _print(line: str) -> None:
    print(line, flush=True)  # without a delay in pipes, because large hulls take minutes
