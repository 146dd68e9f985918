"""``crystalgfn discovery-page``: write a page of the best new crystals in a database of evaluated crystals."""

from __future__ import annotations

import shlex
from pathlib import Path

from crystalgfn.commands.options import Parser, Words, add_energies

TOP = 20
"""Number of crystals on the page by default."""


def main(args: list[str]) -> int:
    """Run the command.

    Args:
        args: what follows ``discovery-page``: ``--db DATABASE --reference TABLE --out FOLDER [...]``.

    Returns:
        exit status 0.

    Raises:
        InputError: if a database, table, folder or option cannot be used.
        SystemExit: with status 2 if the options cannot be parsed, with 0 after ``--help``.
    """
    parser = Parser(
        prog="crystalgfn discovery-page",
        description="Write a page of the best new crystals in a database: Markdown, a table, CIF files and pictures.",
    )
    parser.add_argument("--db", required=True, help="database of evaluated crystals: SQLite file or postgresql:// URL")
    parser.add_argument(
        "--reference", type=Path, required=True, help="table of known crystals; crystals in it are not new"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the page; an older page is replaced")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--samples",
        type=Path,
        metavar="TABLE",
        help="use only the crystals of this table, as written by predict; all of them must be in the database",
    )
    which.add_argument("--source", nargs="+", action=Words, metavar="NAME", help="use only crystals with these sources")
    parser.add_argument("--top", type=int, default=TOP, help="number of crystals on the page (default %(default)s)")
    add_energies(parser)
    parser.add_argument(
        "--recipe", help="text for the page that says how the crystals were sampled, such as command and seed"
    )
    options = parser.parse_args(args)

    from crystalgfn.atoms import require_extra
    from crystalgfn.checks import at_least
    from crystalgfn.discovery.outcome import KnownCrystals, Outcome
    from crystalgfn.discovery.page import PAGE, check_folder, write_page

    at_least("--top", options.top, 1)
    require_extra()
    check_folder(options.out)

    from crystalgfn.discovery.database import LabelDatabase
    from crystalgfn.discovery.selection import of_samples, of_sources, with_shipped_energies

    database = LabelDatabase(options.db, create=False)
    frame = database.frame()
    if options.samples is not None:
        frame = of_samples(frame, options.samples, str(database))
    else:
        frame = of_sources(frame, options.source, str(database))
    frame = with_shipped_energies(frame, database.potential, options.element_references, options.hull, options.offset)
    outcome = Outcome(frame, KnownCrystals.read(options.reference), database.structure)
    shown = " ".join(_plain(word) for word in args)
    about = {"sampled by": f"`{options.recipe}`"} if options.recipe else {}
    about |= {
        "sources": ", ".join(f"{name} ({count})" for name, count in frame["source"].value_counts().items()),
        "this page": f"`crystalgfn discovery-page {shown}`",
    }
    write_page(outcome, options.out, top=options.top, about=about)
    for name, text in outcome.rows().items():
        print(f"{name}: {text.replace('**', '')}")
    print(f"{options.out / PAGE}: the page")
    return 0


def _plain(word: str) -> str:
    """A word of the command without the folders of this machine, quoted if necessary."""
    return shlex.quote(Path(word).name if Path(word).is_absolute() else word)
